"""A run's folder: how it comes to be, and what is asked of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.devices import device_key
from app.errors import LabError
from app.home import Home, write_json
from app.status import write_status
from engine.config import RunSpec

SPEC = "spec.json"


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
    write_json(run_dir / SPEC, spec.model_dump(mode="json"))
    return run_dir


def is_run(run_dir: Path) -> bool:
    """Whether the folder holds a run (rather than one being written)."""
    return (run_dir / SPEC).is_file()


def read_spec(run_dir: Path) -> RunSpec:
    """The run's spec. Raises ``LabError`` when it cannot be read."""
    try:
        return RunSpec.model_validate_json((run_dir / SPEC).read_bytes())
    except (OSError, ValidationError) as error:
        raise LabError(
            "bad-spec",
            field=SPEC,
            value=str(run_dir / SPEC),
            message=f"The run's spec cannot be read: {_first_line(error)}.",
            mend="Delete the run, or start it again from its scenario.",
        ) from error


def device_of(run_dir: Path) -> str:
    """The device the run will use, named as ``app.devices.device_key`` does. Raises as ``read_spec`` does."""
    return device_key(read_spec(run_dir).engine.device)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
