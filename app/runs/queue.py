"""The run queue: one run at a time per device; engine processes started, watched, cancelled, adopted after a restart.

The disk is the queue. A run exists once its folder holds ``spec.json``; who is at it stands in ``status.json``. All
that this class keeps in memory can be rebuilt from there, which is what happens after the lab was killed: queued runs
are queued again, a living worker is adopted, a dead one's run is settled as ``crashed``.

Several supervisors may share a home (the lab, and command lines while no lab is up). A lock per device keeps them
apart; the kernel drops it with the process that held it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from app.errors import LabError
from app.home import Home
from app.rights import Right, needs
from app.runs import process
from app.runs.folder import create_run, device_of
from app.runs.process import EngineProcess, imports_are_under_way, start_fork_server, sweep_logs
from app.runs.queue_order import move, place_of
from app.runs.settle import settle
from engine.config import RunSpec
from telemetry.folder import is_run
from telemetry.process import is_alive, own_identity
from telemetry.status import ask_for_end, is_final, is_unwanted, read_status, state, write_status

GRACE_S = 15.0
TICK_S = 0.05
SURVEY_S = 0.5
RETRY_S = 2.0
log = logging.getLogger("servescope.queue")


@dataclass
class _Running:
    run_id: str
    process: EngineProcess
    lock: FileLock
    asked_to_end: float | None = None  # monotonic seconds


@dataclass
class _Leaving:
    """A run of another supervisor that was asked to end."""

    process: EngineProcess
    asked_to_end: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Queued:
    run_id: str
    device: str


@dataclass
class RunQueue:
    """Supervises the runs of one home.

    ``only``: look after this run alone (a command line); None: after every run of the home (the lab).
    ``keep_spare``: hold a warm worker ready while nothing runs. ``environment``: of its workers; as it is now, since
    Streamlit writes into it later.
    """

    home: Home
    keep_spare: bool = False
    only: str | None = None
    grace_s: float = GRACE_S
    environment: dict[str, str] = field(default_factory=lambda: process.worker_environment())
    _queued: list[_Queued] = field(default_factory=list)
    _running: dict[str, _Running] = field(default_factory=dict)  # by device key
    _leaving: dict[str, _Leaving] = field(default_factory=dict)  # by run id
    _settled: set[str] = field(default_factory=set)
    _stumbled: set[str] = field(default_factory=set)  # runs whose trouble was logged
    _spare: EngineProcess | None = None
    _spare_failures: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _wake: threading.Event = field(default_factory=threading.Event)
    _stopping: bool = False
    _thread: threading.Thread | None = None
    _next_survey: float = 0.0

    # ---- asked from outside, any thread -------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Start what the first run needs now, so that its imports run beside whatever the caller does next."""
        sweep_logs(self.home)
        start_fork_server(self.environment)
        with self._lock:
            self._keep_spare()

    def start(self) -> None:
        """Take up what is on disk and keep the queue moving in a thread of its own."""
        start_fork_server(self.environment)
        self._thread = threading.Thread(target=self._loop, name="run-queue", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End running runs cleanly (what they did is kept), send the spare away. Queued runs stay queued on disk."""
        with self._lock:
            self._stopping = True
            for running in self._running.values():
                self._ask_to_end(running)
        if self._thread is not None:
            self._wake.set()
            self._thread.join()
        while self._running:
            self.tick()
            time.sleep(TICK_S)
        if self._spare is not None:
            self._spare.dismiss()
            self._spare = None

    def submit(self, spec: RunSpec) -> str:
        """Write the run's folder and queue it. Raises ``LabError`` when the id is taken or the disk is full."""
        self.home.require_space()
        create_run(self.home, spec, supervisor=own_identity())
        self.enqueue(spec.run_id)
        return spec.run_id

    def enqueue(self, run_id: str) -> None:
        """Queue a run whose folder is on disk already. Raises ``LabError`` for an unknown run."""
        run_dir = self.home.existing_run_dir(run_id)
        with self._lock:
            if state(read_status(run_dir)) == "queued" and not self._is_mine(run_id):
                self._take(run_id, run_dir)
        self._wake.set()

    @needs(Right.CANCEL)
    def cancel(self, run_id: str) -> bool:
        """Cancel a queued run, or ask a running one to end; False when it had ended already.

        A run that does not end within ``grace_s`` is killed by a later ``tick``, whoever looks after it.

        Raises ``LabError`` for an unknown run.
        """
        run_dir = self.home.existing_run_dir(run_id)
        with self._lock:
            status = read_status(run_dir)
            if is_final(status):
                return False
            ask_for_end(run_dir)
            for running in self._running.values():
                if running.run_id == run_id:
                    self._ask_to_end(running)
                    return True
            if state(status) == "queued":
                self._queued = [queued for queued in self._queued if queued.run_id != run_id]
                settle(run_dir, exit_code=None, cancelled=True)
                return True
            if run_id not in self._leaving:  # another supervisor's run, which may be as stuck as its worker
                self._leaving[run_id] = _Leaving(EngineProcess.adopt(run_dir))
                self._leaving[run_id].process.terminate()
            return True

    @needs(Right.CANCEL)
    def move(self, run_id: str, way: str) -> list[str]:
        """Move a waiting run among those of its device: to the ``front``, ``up`` or ``down``; the queue as it is then.

        Raises ``LabError`` for a run that does not wait here, or a way that is none.
        """
        with self._lock:
            device = next((queued.device for queued in self._queued if queued.run_id == run_id), None)
            move(self.home, [q.run_id for q in self._queued if q.device == device], run_id, way)
            self._sort()
            return self.queued()

    def queued(self) -> list[str]:
        """Ids of waiting runs, next first."""
        with self._lock:
            return [queued.run_id for queued in self._queued]

    def running(self) -> list[str]:
        """Ids of the runs that have a worker, one per device."""
        with self._lock:
            return [running.run_id for running in self._running.values()]

    @property
    def spare_is_ready(self) -> bool:
        """Whether a warm worker waits with its imports done."""
        with self._lock:
            return self._spare is not None and self._spare.is_alive() and self._spare.is_ready

    def _loop(self) -> None:
        while not (self._stopping and not self._running):
            pause = TICK_S
            try:
                self.tick()
            except Exception:  # a full disk, say: the runs of the lab must not lose their supervisor to it
                log.exception("the run queue stumbled; it tries again")
                pause = RETRY_S
            self._wake.wait(pause)
            self._wake.clear()

    def tick(self) -> None:
        """One look at everything: settle what ended, survey the disk, start what may start."""
        with self._lock:
            self._settle_ended()
            self._see_out()
            if time.monotonic() >= self._next_survey:
                self._survey()
                self._next_survey = time.monotonic() + SURVEY_S
            if not self._stopping:
                self._start_next()
                if self.keep_spare and not self._running and not self._queued:
                    self._keep_spare()

    def _settle_ended(self) -> None:
        now = time.monotonic()
        for device, running in list(self._running.items()):
            if running.process.is_alive():
                if running.asked_to_end is not None and now - running.asked_to_end > self.grace_s:
                    running.process.kill()
                continue
            run_dir = self.home.run_dir(running.run_id)
            if run_dir.is_dir():
                settle(run_dir, exit_code=running.process.exit_code(), cancelled=running.asked_to_end is not None)
            del self._running[device]
            running.lock.release()

    def _see_out(self) -> None:
        """Kill what another supervisor's run left over when its time to end was up, and write down that it is
        cancelled.
        """
        for run_id, leaving in list(self._leaving.items()):
            run_dir = self.home.run_dir(run_id)
            if leaving.process.is_alive():
                if time.monotonic() - leaving.asked_to_end > self.grace_s:
                    leaving.process.kill()
                continue
            if run_dir.is_dir():
                settle(run_dir, exit_code=None, cancelled=True)
            del self._leaving[run_id]

    def _survey(self) -> None:
        """Find runs on disk that nobody looks after: left by an earlier lab, or written by a command line."""
        for running in self._running.values():
            if is_unwanted(self.home.run_dir(running.run_id)):  # somebody else's wish
                self._ask_to_end(running)
        for run_id in [self.only] if self.only else self.home.run_ids():
            if run_id in self._settled or self._is_mine(run_id):
                continue
            try:
                self._look_after(run_id, self.home.run_dir(run_id))
            except Exception:  # one run's trouble, a full disk say: the others must not wait for it
                if run_id not in self._stumbled:
                    log.exception("the run queue stumbled over run %s; it tries again", run_id)
                self._stumbled.add(run_id)

    def _look_after(self, run_id: str, run_dir: Path) -> None:
        """What a run on disk needs: to be queued, adopted or settled."""
        if not is_run(run_dir):
            return
        status = read_status(run_dir)
        if is_final(status):
            self._settled.add(run_id)
        elif state(status) == "queued":
            if not self._has_other_supervisor(status):
                self._take(run_id, run_dir)
        elif is_alive(status):
            self._adopt(run_id, run_dir)
        elif not self._has_other_supervisor(status):
            settle(run_dir, exit_code=None, cancelled=False)

    def _take(self, run_id: str, run_dir: Path) -> None:
        try:
            device = device_of(run_dir)
        except LabError as error:
            write_status(run_dir, state="failed", ended_unix_ns=time.time_ns(), error=error.as_dict())
            return
        write_status(run_dir, state="queued", supervisor=own_identity())
        self._queued.append(_Queued(run_id, device))
        self._sort()

    def _adopt(self, run_id: str, run_dir: Path) -> None:
        try:
            device = device_of(run_dir)
        except LabError:
            return
        lock = self._device_lock(device)
        if device in self._running or lock is None:
            return
        self._running[device] = _Running(run_id, EngineProcess.adopt(run_dir), lock)
        log.info("took over run %s (process %s)", run_id, self._running[device].process.pid)

    def _start_next(self) -> None:
        for queued in list(self._queued):
            if queued.device in self._running or (self._spare is None and imports_are_under_way(self.environment)):
                continue
            lock = self._device_lock(queued.device)
            if lock is None:
                continue
            self._queued.remove(queued)
            run_dir = self.home.run_dir(queued.run_id)
            if not run_dir.is_dir() or is_final(read_status(run_dir)):
                lock.release()
                continue
            process, self._spare = self._spare, None
            if process is None or not process.is_alive():
                if process is not None:
                    process.dismiss()
                process = EngineProcess.start(self.home, self.environment)
            process.serve(run_dir)
            self._running[queued.device] = _Running(queued.run_id, process, lock)

    def _keep_spare(self) -> None:
        if self._spare is not None and not self._spare.is_alive():
            self._spare.dismiss()
            self._spare = None
            self._spare_failures += 1
        if self._spare is None and self._spare_failures < 3 and not imports_are_under_way(self.environment):
            self._spare = EngineProcess.start(self.home, self.environment)

    def _sort(self) -> None:
        self._queued.sort(key=lambda queued: place_of(self.home.run_dir(queued.run_id)))

    # ---- small questions ----------------------------------------------------------------------------------------

    def _ask_to_end(self, running: _Running) -> None:
        if running.asked_to_end is None:
            running.asked_to_end = time.monotonic()
            running.process.terminate()

    def _is_mine(self, run_id: str) -> bool:
        return any(q.run_id == run_id for q in self._queued) or any(r.run_id == run_id for r in self._running.values())

    def _has_other_supervisor(self, status: dict[str, Any]) -> bool:
        supervisor = status.get("supervisor") or {}
        return supervisor.get("pid") != os.getpid() and is_alive(supervisor)

    def _device_lock(self, device: str) -> FileLock | None:
        lock = FileLock(self.home.locks / f"{device}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock
