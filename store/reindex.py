"""Rebuild the database from the spools; what ``servescope reindex`` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from store.database import Database
from store.errors import StoreError
from store.ingest import Collector

RunsDone = Callable[[int, int, str], None]


def reindex(path: Path, runs_dir: Path, progress: RunsDone | None = None) -> dict[str, str]:
    """Build a new database beside the old one and put it in its place; returns runs with problems and what they are.

    ``progress(done, total, run_id)`` is called as each run begins, and at the end with ``done == total``. The old
    database may be damaged or missing; if another process has it open, nothing is touched.

    Raises:
        StoreError: the database is in use, or the new one cannot be written.
    """
    _refuse_if_owned(path)
    fresh = path.with_name(f"{path.name}.rebuilding")
    _remove(fresh)
    try:
        with Database(fresh) as database:
            collector = Collector(runs_dir, database)
            run_ids = [p.name for p in collector.run_dirs()]
            for done, run_id in enumerate(run_ids):
                if progress is not None:
                    progress(done, len(run_ids), run_id)
                collector.ingest_once(run_id)
            collector.index_experiments()
            if not database.checkpoint():
                raise StoreError("busy", "The new database could not be completed.", "Run `servescope reindex` again.")
            problems = dict(collector.problems)
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)  # belongs to the old file
        fresh.replace(path)
    finally:
        _remove(fresh)
    if progress is not None:
        progress(len(run_ids), len(run_ids), "")
    return problems


def _refuse_if_owned(path: Path) -> None:
    if not path.exists():
        return
    try:
        Database(path).close()
    except StoreError as error:
        if error.kind == "busy":
            raise


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
