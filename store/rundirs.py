"""What a run's folder says of itself besides its rows: ``spec.json`` and ``status.json``."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from telemetry.process import is_alive

ACTIVE_STATES = frozenset({"starting", "loading", "running"})
FINAL_STATES = frozenset({"finished", "failed", "cancelled", "crashed"})

CRASHED = {
    "kind": "crashed",
    "field": "run",
    "value": None,
    "message": "The engine process ended without saying why (it was killed, or the machine went down).",
    "mend": "See worker.log in the run's folder; what was recorded until then is kept.",
}


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None if there is no file, or no object in it."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_status(run_dir: Path) -> dict[str, Any]:
    """``status.json``; a run without a readable one is queued."""
    return read_json(run_dir / "status.json") or {"state": "queued", "run_id": run_dir.name}


def read_spec(run_dir: Path) -> dict[str, Any] | None:
    """``spec.json`` without its requests; None if it is not there yet."""
    spec = read_json(run_dir / "spec.json")
    if spec is not None:
        spec.pop("requests", None)
    return spec


def write_status(run_dir: Path, status: dict[str, Any]) -> None:
    """Replace ``status.json``, by rename, so that a reader never sees half of it."""
    temporary = run_dir / f".status.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(status))
    temporary.replace(run_dir / "status.json")


def mark_crashed(run_dir: Path) -> bool:
    """Write the state ``crashed`` if the run says it is under way and its process is gone; whether it did.

    A run whose status names no process is left to whoever is starting it.
    """
    if not _is_orphan(read_status(run_dir)):
        return False
    status = read_status(run_dir)  # the process may have written its end and left between the two looks
    if not _is_orphan(status):
        return False
    now = time.time_ns()
    labels = [*status.get("labels", []), "unfinished"]
    write_status(
        run_dir,
        status
        | {"state": "crashed", "error": CRASHED, "ended_unix_ns": now, "updated_unix_ns": now}
        | {"labels": list(dict.fromkeys(labels))},
    )
    return True


def _is_orphan(status: dict[str, Any]) -> bool:
    return status.get("state") in ACTIVE_STATES and "pid" in status and not is_alive(status)
