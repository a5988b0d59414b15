"""``servescope``: the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands import (
    attach,
    compare,
    doctor,
    exchange,
    lab,
    lessons,
    papers,
    preview,
    quality,
    queue,
    reports,
    retention,
    run,
    runs,
    serve,
    sql,
)
from app.commands.console import command
from app.commands.printable import guard_terminal
from app.home import Home
from engine.config import load_plugins
from scenarios import lessons as library
from scenarios.load import look_also_in

app = typer.Typer(
    name="servescope",
    help="A lab for LLM serving: a real engine, its switches, and every iteration on the page.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("servescope"))
        raise typer.Exit


@app.callback()
@command
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    load_plugins()
    home = Home.from_environment()
    look_also_in(home.scenarios)
    library.look_also_in(home.lessons)


BROWSING = (exchange, reports, runs, retention, queue, sql)
for module in (lab, run, serve, attach, preview, compare, quality, *BROWSING, papers, lessons, doctor):
    module.register(app)


def main() -> None:
    """Entry point of the ``servescope`` program."""
    guard_terminal()
    app()


if __name__ == "__main__":
    main()
