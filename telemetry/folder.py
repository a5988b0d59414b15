"""What a run's folder may be called, and what lies where in it."""

from __future__ import annotations

import re
from pathlib import Path

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

SPEC = "spec.json"
STATUS = "status.json"
NOTES = "notes.json"
QUALITY = "quality.json"
WORKER_LOG = "worker.log"
TELEMETRY_FOLDER = "telemetry"
TIERS_FOLDER = "kv_tiers"  # blocks of the disk tier, while the run lasts


def is_run(run_dir: Path) -> bool:
    """Whether the folder holds a run, be it a damaged one, rather than one that is being written."""
    return (run_dir / SPEC).exists() or (run_dir / TELEMETRY_FOLDER).exists()


def spool_path(run_dir: Path, row: str) -> Path:
    """The spool file of one row type."""
    return run_dir / TELEMETRY_FOLDER / f"{row}.arrow"
