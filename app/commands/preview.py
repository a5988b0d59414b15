"""``servescope preview``: what a scenario will ask, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.console import Json, command, emit, say, stdout, table
from app.commands.run import build_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scenarios.preview import Bin

BAR = 40  # characters of the longest bar


def register(app: typer.Typer) -> None:
    app.command()(preview)


@command
def preview(
    scenario: Annotated[str, typer.Argument(help="A built-in scenario (servescope scenarios) or a .yaml file.")],
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as workload.speed=2. Repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Say what a scenario will ask, before it runs.

    Arrivals, lengths, shared text, and the load against what this machine can do.

    Nothing is served. For example: servescope preview chat --set workload.speed=2
    """
    from app.home import Home
    from app.runs.machine_rates import machine_rates
    from scenarios.preview import preview as look_ahead

    home = Home.from_environment().prepare()
    spec = build_spec(scenario, set or [], home)
    expected = look_ahead(spec, machine_rates(home, spec.engine, say))
    if json:
        emit(expected.as_dict())
        return
    out = stdout()
    for title, unit, counted in (
        ("Arrivals", "s", expected.arrivals_s),
        ("Prompt lengths", "tokens", expected.prompt_lengths),
        ("Most tokens of answers", "tokens", expected.output_lengths),
    ):
        out.print(table((unit, "requests", ""), _rows(counted), title=title, right=("requests",), whole=(unit,)))
    for sentence in (*expected.in_words, expected.sizing, *expected.labels):
        if sentence:
            say(sentence)


def _rows(counted: Sequence[Bin]) -> list[tuple[str, int, str]]:
    most = max(one.count for one in counted)
    return [(one.in_words, one.count, "#" * -(-BAR * one.count // most)) for one in counted]
