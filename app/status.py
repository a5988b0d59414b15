"""``status.json`` of a run as the supervisor and the command line see it (keys: ``docs/architecture.md``)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from app.home import read_json, write_json

FILE = "status.json"
ACTIVE_STATES = frozenset({"starting", "loading", "running"})
FINAL_STATES = frozenset({"finished", "failed", "cancelled", "crashed"})
START_TOLERANCE_S = 2.0  # how far two readings of one process's start may lie apart (clock adjustments)

Status = dict[str, Any]


def read_status(run_dir: Path) -> Status:
    """The run's status; a run without a readable one counts as queued and owned by nobody."""
    return read_json(run_dir / FILE) or {"state": "queued", "run_id": run_dir.name}


def state(status: Status) -> str:
    return str(status.get("state", "queued"))


def is_final(status: Status) -> bool:
    return state(status) in FINAL_STATES


def write_status(run_dir: Path, **changes: Any) -> Status:
    """Merge ``changes`` into the status and write it. Only for whoever owns the run at that moment."""
    status = read_status(run_dir) | {"run_id": run_dir.name, "updated_unix_ns": time.time_ns()} | changes
    write_json(run_dir / FILE, status)
    return status


def process_start(pid: int) -> float | None:
    """When process ``pid`` began (seconds since 1970); None if there is none or it is only waiting to be reaped."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.Error, ValueError):
        return None


def is_alive(identity: Status | None) -> bool:
    """Whether the process of ``pid`` and ``process_start_unix`` still runs; its start tells a reused pid apart."""
    pid, started = (identity or {}).get("pid"), (identity or {}).get("process_start_unix")
    if not isinstance(pid, int) or pid <= 0:
        return False
    now = process_start(pid)
    if now is None:
        return False
    return not isinstance(started, int | float) or abs(now - started) <= START_TOLERANCE_S


def identity_of(pid: int) -> Status:
    """``pid`` and ``process_start_unix`` of a living process."""
    return {"pid": pid, "process_start_unix": process_start(pid)}


def own_identity() -> Status:
    return identity_of(os.getpid())
