"""``servescope doctor``: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

import typer

from app.commands.console import Json, command, emit, stdout, table

MARKS = {"ok": "ok", "note": "note", "broken": "BROKEN"}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


@command
def doctor(json: Json = False) -> None:
    """Say what is missing here and what mends it.

    Looks at devices, versions, memory, disk, model, browser and database. Exit code 1 if something is broken.
    """
    from app.doctor import examine
    from app.home import Home

    checks = list(examine(Home.from_environment()))
    healthy = all(check.state != "broken" for check in checks)
    if json:
        emit({"ok": healthy, "checks": [check.as_dict() for check in checks]})
    else:
        rows = ((MARKS[check.state], check.name, check.detail, check.mend) for check in checks)
        stdout().print(table(("", "what", "found", "to mend it"), rows, whole=("", "what")))
    if not healthy:
        raise typer.Exit(1)
