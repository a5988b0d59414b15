"""``status.json`` of a run as the supervisor and the command line see it (keys: ``docs/architecture.md``)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from app.home import read_json, write_json

FILE = "status.json"
ACTIVE_STATES = frozenset({"starting", "loading", "running"})
FINAL_STATES = frozenset({"finished", "failed", "cancelled", "crashed"})

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
