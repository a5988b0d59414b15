"""Deleting a run is moving its folder aside, so that it can be undone; the trash is emptied by age or by command."""

from __future__ import annotations

import shutil
import time

from app.errors import LabError
from app.home import Home, read_json, write_json
from app.status import is_final, read_status
from telemetry.process import is_alive

MARK = "deleted.json"
KEEP_DAYS = 30


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
    write_json(run_dir / MARK, {"deleted_unix": time.time()})
    target = home.trash_dir(run_id)
    shutil.rmtree(target, ignore_errors=True)
    run_dir.replace(target)


def restore_run(home: Home, run_id: str) -> None:
    """Bring a run back. Raises ``LabError`` when it is not in the trash, or its id is taken again."""
    source, target = home.trash_dir(run_id), home.run_dir(run_id)
    if not source.is_dir():
        known = home.trashed_ids()
        raise LabError(
            "unknown-run",
            field="run",
            value=run_id,
            message=f"There is no run {run_id!r} in the trash.",
            mend=f"There: {', '.join(known[-5:])}." if known else "The trash is empty.",
        )
    if target.exists():
        raise LabError(
            "run-exists",
            field="run",
            value=run_id,
            message=f"There is a newer run {run_id}.",
            mend=f"Delete that one first: servescope delete {run_id}",
        )
    (source / MARK).unlink(missing_ok=True)
    source.replace(target)


def empty_trash(home: Home, older_than_days: float = 0.0) -> list[str]:
    """Remove runs that were deleted more than so many days ago; their ids."""
    removed = []
    for run_id in home.trashed_ids():
        folder = home.trash_dir(run_id)
        deleted = (read_json(folder / MARK) or {}).get("deleted_unix", 0.0)
        if time.time() - deleted >= older_than_days * 86_400:
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(run_id)
    return removed
