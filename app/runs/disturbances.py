"""What visibly disturbed a run that is over, told from its folder and kept in its brief: lists need no database for
it.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from app.runs.brief import FILE, brief_of
from store.errors import StoreError
from telemetry.json_file import write_json
from telemetry.status import Status, is_final


def disturbances_of(run_dir: Path, status: Status) -> list[str]:
    """What disturbed it, in words; empty of a run that goes on, and where its rows cannot be read."""
    if not is_final(status):
        return []
    brief = brief_of(run_dir)
    if brief.disturbances is None:
        brief = brief.model_copy(update={"disturbances": _from_rows(run_dir)})
        if brief.problem is None:
            with contextlib.suppress(OSError):
                write_json(run_dir / FILE, brief, durable=False)
    return list(brief.disturbances or ())


def _from_rows(run_dir: Path) -> list[str]:
    """Imports what is heavy: a list of runs that were looked at before needs none of it."""
    import duckdb
    import pyarrow as pa

    from store.limits import cores_and_threads
    from store.machine import machine_state
    from store.snapshot import read_rows

    try:
        samples, events = read_rows(run_dir, "device"), read_rows(run_dir, "run")
    except (StoreError, FileNotFoundError):  # nothing was recorded, or it is damaged, which the run says itself
        return []
    if samples is None or not samples.num_rows:
        return []
    stated = [text for text in (events.column("environment").to_pylist() if events is not None else ()) if text]
    cores = cores_and_threads(json.loads(stated[-1]))[0] if stated else None
    devices = samples.append_column("run_id", pa.array([run_dir.name] * samples.num_rows, pa.string()))
    with duckdb.connect() as con:
        con.register("devices", devices)
        return list(machine_state(con, run_dir.name, cores)["disturbances"])
