"""What the lab server holds for as long as it runs; pages, routes and the socket reach it through ``get_lab()``."""

from __future__ import annotations

import contextlib
import hmac
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from app.errors import LabError
from app.experiments.drive import Experimenter
from app.experiments.file import delete_experiment
from app.home import Home
from app.locks import LabAddress, database_lock
from app.retention import keep_to, read_rule
from app.rights import Right, by_itself, needs
from app.runs import trash
from app.runs.hub import require_models_here
from app.runs.machine_rates import measure_for
from app.runs.queue import RunQueue
from scenarios import lessons
from scenarios.load import look_also_in
from store.database import Database
from store.figures import final_figures
from store.in_flight import in_flight_of
from store.ingest import Collector
from store.live_run import LiveRun
from store.live_runs import LiveRuns
from telemetry.refusal import Refusal, in_words
from telemetry.status import Status, is_final

if TYPE_CHECKING:
    import duckdb

    from engine.config import RunSpec

log = logging.getLogger("servescope.lab")
STARTER = "starter"


class Lab:
    """Database, collector, live runs and run queue of one store. ``start`` once, ``stop`` once."""

    def __init__(self, home: Home, address: LabAddress) -> None:
        self.home = home
        self.address = address
        self.queue = RunQueue(home, keep_spare=True)
        self.experimenter = Experimenter(home, self.submit, self.queue.cancel)
        self.started_unix_ns = time.time_ns()
        self.starter_run: str | None = None  # which this process began with an empty store
        self._database_lock: FileLock | None = None
        self._database: Database | None = None
        self._live: LiveRuns | None = None
        self._collector: Collector | None = None

    @property
    def token(self) -> str:
        """What the API asks for, and opens everything; new at every start. Never given to a page."""
        return self.address.token

    @property
    def socket_token(self) -> str:
        """What pages show the live socket, and opens nothing else. Given to the page in component data only."""
        return hmac.digest(self.token.encode(), b"live socket", "sha256").hex()

    @property
    def database(self) -> Database:
        """The open database. Raises ``LabError`` before ``start``."""
        if self._database is None:
            raise _not_running()
        return self._database

    @property
    def collector(self) -> Collector:
        if self._collector is None:
            raise _not_running()
        return self._collector

    def start(self) -> None:
        """Open the database and begin to collect and to serve; does nothing the second time.

        Raises ``LabError`` when another process keeps the database, ``StoreError`` when it cannot be read.
        """
        if self._database is not None:
            return
        self._database_lock = database_lock(self.home)
        try:
            self._database = Database(self.home.database)
        except BaseException:
            self._database_lock.release()
            raise
        look_also_in(self.home.scenarios)
        lessons.look_also_in(self.home.lessons)
        self._live = LiveRuns(self._database)
        self._collector = Collector(self.home.runs, self._database, self._live.on_batch, mark_crashes=False).start()
        self.queue.start()
        self.experimenter.start()
        trash.empty_trash(self.home, older_than_days=trash.KEEP_DAYS)
        self._keep_to_limit()

    def stop(self) -> None:
        """End the run in progress cleanly, take in its last rows, close the database; harmless the second time."""
        self.experimenter.stop()
        self.queue.stop()
        if self._collector is not None:
            self._collector.stop()
            self._collector = None
        if self._database is not None:
            self._database.checkpoint()
            self._database.close()
            self._database = None
        if self._database_lock is not None:
            self._database_lock.release()
        look_also_in(None)
        lessons.look_also_in(None)

    @contextlib.contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database cursor for the calling thread, for the length of a block."""
        with self.database.read() as cursor:
            yield cursor

    def live(self, run_id: str) -> LiveRun:
        """The run's live series: of a run in progress as far as it is, of an older one from the database."""
        if self._live is None:
            raise _not_running()
        return self._live.get(run_id)

    def figures(self, run_id: str, status: Status) -> dict[str, Any]:
        """The run's key figures: of one in progress as far as it is, of one that is over its summary's (``final``
        tells).
        """
        if is_final(status):
            with self.cursor() as cursor:
                final = final_figures(cursor, run_id)
            if final is not None:
                return final
        return self.live(run_id).figures(in_flight_of(status))

    @needs(Right.START)
    def submit(self, spec: RunSpec) -> str:
        """Queue a run; its id. Raises ``LabError`` when the id is taken or the disk is full."""
        with by_itself():
            self._keep_to_limit()
        run_id = self.queue.submit(spec)
        self.collector.notify(run_id)
        return run_id

    def submit_like(self, spec: RunSpec) -> str:
        """Queue a run made from a shown one. Raises ``LabError`` as ``submit`` does, and when its model would have to
        be fetched.
        """
        require_models_here(spec.engine)
        return self.submit(spec)

    def _keep_to_limit(self) -> None:
        """Move runs to the trash by the rule that somebody set, if the lab is to keep to it by itself."""
        try:
            rule = read_rule(self.home)
            gone = keep_to(self.home, rule) if rule.by_itself else []
        except (LabError, OSError) as error:
            log.warning("the limit for runs was not kept: %s", error)
            return
        for run_id in gone:
            log.info("moved to the trash, to keep to the limit for runs: %s", run_id)
            self.collector.notify(run_id)

    def delete(self, run_id: str) -> None:
        """Move a run to the trash and take it out of the database. Raises ``LabError`` while it is being served."""
        trash.delete_run(self.home, run_id)
        self.collector.notify(run_id)

    def delete_experiment(self, experiment_id: str) -> None:
        """Move an experiment to the trash. Raises ``LabError`` while it goes on."""
        delete_experiment(self.home, experiment_id)
        self.collector.notify()

    def restore(self, run_id: str) -> None:
        """Bring a run back from the trash. Raises ``LabError`` when it is not there."""
        trash.restore_run(self.home, run_id)
        self.collector.notify(run_id)

    def start_starter(self) -> str | None:
        """With an empty store, queue the starter scenario, so that the first page moves; its run id."""
        if self.home.run_ids() or self.home.trashed_ids():
            return None
        import scenarios

        try:
            self.starter_run = self.submit(scenarios.build(STARTER, measure=measure_for(self.home)))
            return self.starter_run
        except (LabError, ValueError) as error:
            log.warning("the starter scenario did not start: %s", error)
            return None

    def note_page_error(self, error: Exception) -> bool:
        """Log an error of a page in full and show the reader a sentence instead of a traceback."""
        import streamlit as st

        log.error("a page failed", exc_info=error)
        if not isinstance(error, Refusal):
            st.error(f"This page failed ({type(error).__name__}). The lab's terminal has the details; the runs go on.")
        else:
            st.error(in_words(error))
        return True


_lab: Lab | None = None


def get_lab() -> Lab:
    """The lab of this process. Raises ``LabError`` where none runs."""
    if _lab is None:
        raise _not_running()
    return _lab


def set_lab(lab: Lab | None) -> None:
    """Make ``lab`` the one of this process (None: there is none any more)."""
    global _lab
    _lab = lab


def _not_running() -> LabError:
    return LabError("no-lab", message="No lab runs in this process.", mend="Open it with: servescope lab")
