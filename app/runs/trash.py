"""Deleting is moving a folder aside, so that it can be undone; the trash is emptied by age or by command.

A run, an experiment and a report are deleted alike. Nothing is written on the way: deleting is what makes room on a
full disk.
When something was deleted is the time of its folder, set as it is moved.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from app.errors import LabError
from app.home import Home
from app.rights import Right, needs
from telemetry.process import is_alive
from telemetry.status import is_final, read_status

KEEP_DAYS = 30


@needs(Right.DELETE)
def delete_run(home: Home, run_id: str) -> None:
    """Move a run to the trash. Raises ``LabError`` while its engine process lives, or for an unknown run."""
    run_dir = home.existing_run_dir(run_id)
    status = read_status(run_dir)
    if not is_final(status) and is_alive(status):
        raise LabError(
            "run-is-active",
            field="run",
            value=run_id,
            message=f"The run {run_id} is still being served.",
            mend=f"Cancel it first: servescope cancel {run_id}",
        )
    move_to_trash(run_dir, home.trash_dir(run_id))


@needs(Right.DELETE)
def restore_run(home: Home, run_id: str) -> None:
    """Bring a run, an experiment or a report back. Raises ``LabError`` when it is not in the trash, or its id is taken
    again.
    """
    source = home.trash_dir(run_id)
    if not source.is_dir():
        raise not_in_trash(home, run_id)
    target = home.place_of(source)
    if target.exists():
        raise LabError(
            "run-exists",
            field="run",
            value=run_id,
            message=f"There is a newer run {run_id}.",
            mend=f"Delete that one first: servescope delete {run_id}",
        )
    target.parent.mkdir(mode=0o700, exist_ok=True)
    source.replace(target)


def deleted_unix(home: Home, run_id: str) -> float:
    """When something in the trash was deleted, in seconds since 1970."""
    return home.trash_dir(run_id).stat().st_mtime


def trashed(home: Home) -> list[str]:
    """Ids of what is in the trash, the last deleted first."""
    return sorted(home.trashed_ids(), key=lambda run_id: (deleted_unix(home, run_id), run_id), reverse=True)


@needs(Right.DELETE)
def delete_for_good(home: Home, run_id: str) -> None:
    """Remove one thing from the trash. Raises ``LabError`` when it is not there."""
    folder = home.trash_dir(run_id)
    if not folder.is_dir():
        raise not_in_trash(home, run_id)
    shutil.rmtree(folder)


@needs(Right.DELETE)
def empty_trash(home: Home, older_than_days: float = 0.0) -> list[str]:
    """Remove what was deleted more than so many days ago; the ids."""
    removed = []
    for run_id in home.trashed_ids():
        if time.time() - deleted_unix(home, run_id) >= older_than_days * 86_400:
            shutil.rmtree(home.trash_dir(run_id), ignore_errors=True)
            removed.append(run_id)
    return removed


def not_in_trash(home: Home, run_id: str) -> LabError:
    known = home.trashed_ids()
    return LabError(
        "unknown-run",
        field="run",
        value=run_id,
        message=f"There is no run {run_id!r} in the trash.",
        mend=f"There: {', '.join(known[-5:])}." if known else "The trash is empty.",
    )


def move_to_trash(folder: Path, target: Path) -> None:
    """Move a folder to its place in the trash, in place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    now = time.time_ns()
    os.utime(folder, ns=(now, now))  # finer than the kernel's own clock for files: what was deleted last comes first
    folder.replace(target)
