"""A run's folder: how it comes to be, and what is asked of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from app.devices import device_key
from app.errors import LabError
from app.home import Home
from app.runs.brief import keep_brief
from engine.config import RunSpec
from telemetry.folder import SPEC
from telemetry.json_file import Unreadable, read_as, write_json
from telemetry.limits import MOST_SPEC_BYTES
from telemetry.status import write_status

SHARED = "shared device"
"""The label of a run that may be served while another one holds its device."""


def create_run(home: Home, spec: RunSpec, **status: Any) -> Path:
    """Write ``status.json`` (queued), then ``spec.json``: a folder without the latter is no run yet.

    Raises ``LabError`` when the id is taken.
    """
    run_dir = home.run_dir(spec.run_id)
    try:
        run_dir.mkdir(mode=0o700)
    except FileExistsError as error:
        raise LabError(
            "run-exists",
            field="run_id",
            value=spec.run_id,
            message=f"There is already a run {spec.run_id!r}.",
            mend="Leave the id out; a fresh one is drawn.",
        ) from error
    queued = {"state": "queued", "queued_unix_ns": time.time_ns(), "labels": list(spec.labels), "error": None}
    write_status(run_dir, **queued, **status)
    write_json(run_dir / SPEC, spec)
    keep_brief(run_dir, spec)
    return run_dir


def read_spec(run_dir: Path) -> RunSpec:
    """The run's spec. Raises ``LabError`` when it cannot be read."""
    try:
        return read_as(RunSpec, run_dir / SPEC, MOST_SPEC_BYTES)
    except (FileNotFoundError, Unreadable) as error:
        reason = error.reason if isinstance(error, Unreadable) else "it is missing"
        raise LabError(
            "bad-spec",
            field=SPEC,
            value=str(run_dir / SPEC),
            message=f"The run's spec cannot be read: {reason}.",
            mend=f"Delete the run (servescope delete {run_dir.name}), or start it again from its scenario.",
        ) from error


def device_of(run_dir: Path) -> str:
    """The device the run will use, named as ``app.devices.device_key`` does, or what stands for it where the run shares
    it. Raises as ``read_spec`` does.
    """
    spec = read_spec(run_dir)
    return device_key(spec.engine.device) + ("-shared" if SHARED in spec.labels else "")
