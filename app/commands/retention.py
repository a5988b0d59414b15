"""``servescope retention``: how much disk runs take, and a limit to it."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.console import Json, command, emit, say
from app.errors import LabError


def register(app: typer.Typer) -> None:
    app.command("retention")(retention)


@command
def retention(
    limit_gb: Annotated[
        float | None, typer.Option("--limit-gb", metavar="GB", help="How much runs may take; kept from now on.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="No limit, which is so until one is set.")] = False,
    by_itself: Annotated[
        bool | None,
        typer.Option(
            "--by-itself/--by-hand", help="Whether the lab keeps to it at its start and before each run (off)."
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Move what goes by the rule to the trash, now.")] = False,
    json: Json = False,
) -> None:
    """Say what disk runs take and what a limit would delete.

    With --apply it deletes. The oldest runs that are over go to the trash first. What is pinned or tagged, part of an
    experiment or in a report stays.
    """
    from app.home import Home
    from app.retention import GB, Rule, keep_to, plan_retention, read_rule, write_rule
    from app.words.plain import counted
    from app.words.text import disk_size

    home = Home.from_environment().reach()
    if off and limit_gb is not None:
        raise LabError(
            "bad-limit", field="--off", value=str(limit_gb), message="--off and --limit-gb exclude each other."
        )
    before = Rule() if off else read_rule(home)
    if off or limit_gb is not None or by_itself is not None:
        kept = before.limit_gb if limit_gb is None else limit_gb
        write_rule(home, None if off else kept, before.by_itself if by_itself is None else by_itself)
    plan = plan_retention(home, read_rule(home))
    gone = keep_to(home, plan.rule, plan.named) if apply else []
    if json:
        emit(
            {
                "limit_gb": plan.rule.limit_gb,
                "by_itself": plan.rule.by_itself,
                "used_bytes": plan.used,
                "trash_bytes": plan.trashed,
                "goes": [{"run_id": run["id"], "bytes": run["bytes"]} for run in plan.goes],
                "stays": [{"run_id": run["id"], "bytes": run["bytes"], "why": run["why"]} for run in plan.stays],
                "suffices": plan.suffices,
                "deleted": gone,
            }
        )
        return
    limit = "no limit" if plan.rule.limit_gb is None else f"of {disk_size(plan.rule.limit_gb * GB)}"
    say(f"Runs take {disk_size(plan.used)} ({limit}), the trash {disk_size(plan.trashed)}.")
    for run in plan.goes:
        say(f"{'Moved to the trash' if run['id'] in gone else 'Would go'}: {run['id']}, {disk_size(run['bytes'])}")
    if plan.goes and not apply:
        say(f"--apply moves {counted(len(plan.goes), 'run')} to the trash; servescope restore brings one back.")
    if not plan.suffices:
        say("What may not go is above the limit by itself.")
