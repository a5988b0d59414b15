"""The collector: the one thread that writes the database.

It finds run directories, follows their spools, hands every new batch to the live feed at once and commits rows a few
times a second (a transaction costs milliseconds whatever its size). Between runs it folds the write-ahead log into
the file.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from store.database import Database
from store.errors import StoreError
from store.experiments import ExperimentIndex
from store.quality import QualityIndex
from store.schema import TABLES
from store.tail import OnBatch, RunTail
from store.transaction import transaction
from telemetry.folder import RUN_ID, is_run
from telemetry.status import ACTIVE_STATES, end_orphan

log = logging.getLogger(__name__)

POLL_S = 0.05
COMMIT_S = 0.5
DISCOVER_S = 1.0
RETRY_S = 1.0


OF_THE_RUN = (duckdb.DataError, duckdb.IntegrityError, duckdb.NotSupportedError, duckdb.InvalidInputException)
"""What DuckDB raises because of the values it was given; its other errors, and the system's, are about the database."""


class Collector:
    """Follows every run below ``runs_dir``. ``start`` and ``stop`` it, or call :meth:`ingest_once` without a thread.

    ``on_batch(run_id, row_type, batch)`` is called in the collector's thread for each batch it reads, before it is in
    the database; when it is first called for a run, the database holds exactly what came before. ``problems`` names
    runs that could not be read whole; ``problem`` says why nothing is being written at the moment, if so.
    ``mark_crashes``: write the state ``crashed`` for runs whose process is gone; off where a supervisor, which knows
    how the process ended, does that.
    """

    def __init__(
        self,
        runs_dir: Path,
        database: Database,
        on_batch: OnBatch | None = None,
        *,
        poll_s: float = POLL_S,
        commit_s: float = COMMIT_S,
        discover_s: float = DISCOVER_S,
        mark_crashes: bool = True,
    ) -> None:
        self.runs_dir = runs_dir
        self.problems: dict[str, str] = {}
        self._experiments = ExperimentIndex(runs_dir.parent / "experiments")
        self._quality = QualityIndex(runs_dir)
        self._failed: dict[str, str] = {}  # step -> why it failed last time
        self._database = database
        self._on_batch = on_batch
        self._mark_crashes = mark_crashes
        self._poll_s, self._commit_s, self._discover_s = poll_s, commit_s, discover_s
        self._tails: dict[str, RunTail] = {}
        self._known: set[str] = set()  # runs that need no following any more
        self._checkpoint_due = False
        self._lock = threading.Lock()  # one thread at a time works on the tails
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> str | None:
        """Why the database is not being written at the moment; None while it is."""
        if self._thread is not None and not self._thread.is_alive() and not self._stopping:
            return "The collector has stopped: nothing recorded is taken into the database. Start the lab again."
        return next(iter(self._failed.values()), None)

    def start(self) -> Collector:
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Commit what is there and end the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def notify(self, run_id: str | None = None) -> None:
        """Look for new runs now: one was started, restored or deleted."""
        if run_id is not None:
            self._known.discard(run_id)
        self._wake.set()

    def ingest_once(self, run_id: str) -> int:
        """Bring one run's rows into the database now; returns how many. Closes the run's book if it is over."""
        total = 0
        with self._lock, self._database.read() as con:
            tail = self._tails.get(run_id) or RunTail(self.runs_dir / run_id, con)
            with self._contained(con, tail):
                total = tail.read_whole(con, self._feed)
                if tail.ended:
                    (tail.look_again if tail.complete else tail.complete_run)(con)
            self._quality.sync_run(con, run_id)
        return total

    @contextlib.contextmanager
    def _contained(self, con: duckdb.DuckDBPyConnection, tail: RunTail) -> Iterator[None]:
        """Inside, work on one run. What is wrong with the run ends here, as the run's problem; what is wrong with the database or the
        disk is raised."""
        try:
            yield
        except Exception as error:
            if isinstance(error, duckdb.Error | OSError) and not isinstance(error, OF_THE_RUN):
                raise
            log.exception("what run %s recorded cannot be stored", tail.run_id)
            tail.abandon(con, error)
            self._tails.pop(tail.run_id, None)
            self._known.add(tail.run_id)
        finally:
            self._note(tail)

    def index_quality(self) -> None:
        """Bring the table of measured quality up to date now."""
        with self._lock, self._database.read() as con:
            self._index_quality(con)

    def index_experiments(self) -> None:
        """Bring the table of experiments up to date now."""
        with self._lock, self._database.read() as con:
            self._index_experiments(con)

    def end_orphans(self) -> list[str]:
        """Write the end of runs that say they are under way while their process is gone; returns them."""
        return [run_dir.name for run_dir in self.run_dirs() if end_orphan(run_dir)]

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            self._collect()
        except BaseException:  # seen by whoever asks for ``problem``
            log.critical("the collector has stopped", exc_info=True)

    def _collect(self) -> None:
        self._con = self._database.cursor()
        discover_at = commit_at = 0.0
        while not self._stopping:
            now = time.monotonic()
            if now >= discover_at or self._wake.is_set():
                self._wake.clear()
                discover_at = now + self._discover_s
                self._guarded(self._discover)
                self._guarded(self._index_experiments)
                self._guarded(self._index_quality)
            self._guarded(self._read_all)
            now = time.monotonic()
            if now >= commit_at or (self.problem is None and any(t.ended for t in self._tails.values())):
                self._guarded(self._commit_all)
                commit_at = now + (self._commit_s if self.problem is None else RETRY_S)
            self._wake.wait(self._poll_s if self._tails else max(0.0, discover_at - time.monotonic()))
        self._guarded(self._read_all)
        self._guarded(self._commit_all)
        self._con.close()

    def _guarded(self, step: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
        """Run one step; a database that refuses, or a fault of ours, is a problem to show, not the end of the thread."""
        try:
            with self._lock:
                step(self._con)
        except Exception as error:
            if self.problem is None:
                log.warning("the database cannot be written", exc_info=not isinstance(error, duckdb.Error | OSError))
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            self._failed[step.__name__] = f"The database cannot be written: {reason}"
            self._start_over(fatal=isinstance(error, duckdb.FatalException))
        else:
            self._failed.pop(step.__name__, None)

    def _start_over(self, fatal: bool) -> None:
        """A fresh cursor: after a commit that failed the old one may be good for nothing more."""
        with contextlib.suppress(duckdb.Error, StoreError):
            self._con.close()
            if fatal:
                self._database.reopen()
        with contextlib.suppress(duckdb.Error):
            self._con = self._database.cursor()

    def _discover(self, con: duckdb.DuckDBPyConnection) -> None:
        on_disk = {run_dir.name: run_dir for run_dir in self.run_dirs()}
        for run_id in self._tails.keys() - on_disk.keys():
            del self._tails[run_id]
        for run_id in self._stored_runs(con) - on_disk.keys():
            self._forget(con, run_id)
        for run_id, run_dir in on_disk.items():
            tail = self._tails.get(run_id)
            if tail is None and run_id not in self._known:
                tail = RunTail(run_dir, con)
                if tail.complete:
                    self._known.add(run_id)
                    with self._contained(con, tail):
                        tail.look_again(con)
                else:
                    self._tails[run_id] = tail
            if self._mark_crashes and tail is not None and tail.status.get("state") in ACTIVE_STATES:
                with contextlib.suppress(OSError):  # a disk that refuses: the next look tries again
                    end_orphan(run_dir)

    def _index_experiments(self, con: duckdb.DuckDBPyConnection) -> None:
        self._experiments.sync(con)

    def _index_quality(self, con: duckdb.DuckDBPyConnection) -> None:
        self._quality.sync(con)

    def _read_all(self, con: duckdb.DuckDBPyConnection) -> None:
        for tail in list(self._tails.values()):
            with self._contained(con, tail):
                tail.read(self._feed)

    def _commit_all(self, con: duckdb.DuckDBPyConnection) -> None:
        for run_id, tail in list(self._tails.items()):
            with self._contained(con, tail):
                if not tail.ended:  # as known before the last look: what was written before the end is then in it
                    tail.read(self._feed)
                    self._checkpoint_due |= tail.insert(con) > 0
                else:
                    tail.read_whole(con, self._feed)
                    tail.complete_run(con)
                    self._checkpoint_due = True
                    del self._tails[run_id]
                    self._known.add(run_id)
        if self._checkpoint_due and not any(t.status.get("state") in ACTIVE_STATES for t in self._tails.values()):
            self._checkpoint_due = not self._database.checkpoint()

    def _feed(self, run_id: str, row: str, batch: pa.RecordBatch) -> None:
        if self._on_batch is None:
            return
        try:
            self._on_batch(run_id, row, batch)
        except Exception:  # the live picture must not hold up the record
            log.exception("the live feed of run %s failed on a %s batch", run_id, row)

    def _note(self, tail: RunTail) -> None:
        if tail.problems:
            self.problems[tail.run_id] = "; ".join(tail.problems.values())

    # ------------------------------------------------------------------ runs that come and go

    def run_dirs(self) -> list[Path]:
        """Folders that hold a run: those with a ``spec.json`` or rows."""
        if not self.runs_dir.is_dir():
            return []
        return sorted(
            path for path in self.runs_dir.iterdir() if RUN_ID.fullmatch(path.name) and path.is_dir() and is_run(path)
        )

    def _stored_runs(self, con: duckdb.DuckDBPyConnection) -> set[str]:
        if not self.runs_dir.is_dir():  # unmounted, not emptied
            return set()
        return {row[0] for row in con.execute("SELECT run_id FROM runs").fetchall()}

    def _forget(self, con: duckdb.DuckDBPyConnection, run_id: str) -> None:
        """Take a run whose folder is gone out of the index."""
        self._known.discard(run_id)
        self.problems.pop(run_id, None)
        with transaction(con):
            for table in (*TABLES.values(), "spool_positions", "runs"):
                con.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
