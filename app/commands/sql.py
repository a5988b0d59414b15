"""``servescope sql`` and ``reindex``: the database from the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.console import Json, command, emit, say, stdout, table


def register(app: typer.Typer) -> None:
    app.command()(sql)
    app.command()(reindex)


@command
def sql(
    query: Annotated[
        str, typer.Argument(help="One SELECT over runs, iterations, slices, requests, decisions, blocks, devices.")
    ],
    limit: Annotated[int, typer.Option(help="Most rows to print.", min=1, max=1_000_000)] = 10_000,
    json: Json = False,
) -> None:
    """Ask the database (read-only)."""
    from app.home import Home
    from app.server.indexing import select

    columns, rows = select(Home.from_environment().prepare(), query, limit)
    if json:
        emit({"columns": columns, "rows": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        stdout().print(table(columns, rows))


@command
def reindex(json: Json = False) -> None:
    """Rebuild the database from the runs on disk. Nothing is lost: the runs are the truth, the database their index."""
    from app.home import Home
    from app.server.indexing import rebuild

    home = Home.from_environment().prepare()
    problems = rebuild(home)
    runs = len(home.run_ids())
    if json:
        emit({"database": str(home.database), "runs": runs, "problems": problems})
        return
    for run_id, why in problems.items():
        say(f"{run_id}: {why}")
    say(f"Indexed {runs} runs into {home.database}")
