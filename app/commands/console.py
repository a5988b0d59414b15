"""How commands speak: JSON and tables on standard output, words for people on standard error, errors with their
mend.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from app.commands.printable import printable, printable_json
from telemetry.refusal import Refusal, error_object, place

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from app.words.table import Table as ResultTable

P = ParamSpec("P")
QUERY_INTERRUPTED = "Query interrupted"  # what DuckDB makes of a Ctrl-C that came while it worked
R = TypeVar("R")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]


def stderr() -> Console:
    """A console on standard error."""
    from app.commands.rich_console import TerminalConsole

    return TerminalConsole(sys.stderr)


def stdout() -> Console:
    from app.commands.rich_console import TerminalConsole

    return TerminalConsole(sys.stdout)


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """One JSON document on standard output."""
    print(printable_json(json.dumps(value, ensure_ascii=False, indent=2, default=str)), flush=True)


def table(
    columns: Iterable[str],
    rows: Iterable[Iterable[Any]],
    *,
    title: str | None = None,
    right: Iterable[str] = (),
    whole: Iterable[str] = (),
) -> Table:
    """A rich table of plain text cells (markup in values is shown, not obeyed).

    ``right``: columns of numbers; ``whole``: columns that are never broken or cut. Columns with nothing in them are
    left out.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    names, cells = list(columns), [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    filled = [n for n, name in enumerate(names) if not name or any(row[n] for row in cells) or not cells]
    built = Table(
        title=None if title is None else Text(printable(title)),
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        show_header=any(names),
    )
    for name in (names[n] for n in filled):
        justify: Any = "right" if name in right else "left"
        built.add_column(name, justify=justify, overflow="fold", no_wrap=name in whole or name in right)
    for row in cells:
        built.add_row(*(Text(row[n]) for n in filled))
    return built


def result_table(table_: ResultTable, *, right: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """A result table as a rich table."""
    return table(table_.heads, table_.cells(), title=table_.title, right=right, whole=whole)


def command(function: Callable[P, R]) -> Callable[P, R]:
    """A command whose expected errors end with exit code 1, one sentence, and its mend; with --json as an object."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            say("Interrupted.")
            raise typer.Exit(130) from None
        except Exception as error:
            if type(error) is RuntimeError and str(error) == QUERY_INTERRUPTED:
                say("Interrupted.")
                raise typer.Exit(130) from None
            about = describe(error)
            if about is None:
                raise
            if kwargs.get("json"):
                emit({"error": about})
            show_error(about)
            raise typer.Exit(1) from None

    return wrapped


def describe(error: Exception) -> dict[str, Any] | None:
    """The error object of an error that is meant for people; None for anything else (a bug, shown in full)."""
    if isinstance(error, Refusal):
        return error.as_dict()
    if isinstance(error, OSError):
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."
        return error_object("io", "file", error.filename, message, "")
    return None


def show_error(about: dict[str, Any]) -> None:
    """An error object as words on standard error."""
    say(f"error: {place(about)}{about['message']}")
    if about.get("mend"):
        say(f"       {about['mend']}")
