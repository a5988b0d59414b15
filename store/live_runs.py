"""The live runs of one lab server: what the collector reads goes in, what the sockets ask for comes out."""

from __future__ import annotations

import threading
import time

import pyarrow as pa

from store.database import Database
from store.live_run import LiveRun

KEEP_RUNS = 8
QUIET_S = 60.0  # a run that has said nothing for so long is in the database whole


class LiveRuns:
    """Give :meth:`on_batch` to the collector; ask :meth:`get` from anywhere."""

    def __init__(self, database: Database, keep: int = KEEP_RUNS) -> None:
        self._database = database
        self._keep = keep
        self._lock = threading.Lock()
        self._runs: dict[str, LiveRun] = {}  # least recently used first
        self._fed_at: dict[str, float] = {}

    def on_batch(self, run_id: str, row: str, batch: pa.RecordBatch) -> None:
        """Take in a batch that is not in the database yet."""
        with self._lock:
            live = self._load(run_id)
            self._fed_at[run_id] = time.monotonic()
        live.feed(row, batch)

    def get(self, run_id: str) -> LiveRun:
        """The run as far as it is known; one that is over comes from the database. Empty for an unknown run."""
        with self._lock:
            return self._load(run_id)

    def _load(self, run_id: str) -> LiveRun:
        live = self._runs.pop(run_id, None)
        if live is None:
            with self._database.read() as con:
                live = LiveRun.from_database(con, run_id)
        self._runs[run_id] = live
        self._evict()
        return live

    def _evict(self) -> None:
        """Let go of the runs nobody asked for longest, but of none that may hold rows the database lacks."""
        horizon = time.monotonic() - QUIET_S
        idle = [run_id for run_id in list(self._runs)[:-1] if self._fed_at.get(run_id, 0.0) < horizon]
        for run_id in idle[: max(0, len(self._runs) - self._keep)]:
            del self._runs[run_id]
            self._fed_at.pop(run_id, None)
