"""``servescope reports``: the reports there are; ``servescope export ID -o FILE.html`` writes one."""

from __future__ import annotations

import typer

from app.commands.console import Json, command, emit, say


def register(app: typer.Typer) -> None:
    app.command("reports")(reports)


@command
def reports(json: Json = False) -> None:
    """List the reports: pinned charts with notes."""
    from app.home import Home
    from app.reports import Report, list_reports
    from app.words.plain import clock, counted

    known = list_reports(Home.from_environment().reach())
    rows = [
        {"id": one, "name": report.name, "charts": len(report.pins), "runs": list(report.runs), "problem": None}
        if isinstance(report, Report)
        else {"id": one, "name": "", "charts": 0, "runs": [], "problem": report.message}
        for one, report in known.items()
    ]
    if json:
        emit({"reports": rows})
        return
    for row, report in zip(rows, known.values(), strict=True):
        if isinstance(report, Report):
            about = f"{counted(len(report.pins), 'chart')}, {counted(len(report.runs), 'run')}"
            say(f"{row['id']}  {report.name} ({about}, {clock(report.changed_unix_ns)})")
        else:
            say(f"{row['id']}  {row['problem']}")
    if not rows:
        say("No report yet: every chart on the page has a Pin beneath it.")
