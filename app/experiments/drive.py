"""Driving experiments: one run after the other, from wherever the files say they are.

A driver holds the experiment's lock for as long as it lives; the kernel drops it with the process, so an experiment
whose driver was killed is taken up by the next one (the lab, at its start) where it stopped. Runs go through a run
queue like any other.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace

from filelock import FileLock, Timeout

from app.errors import LabError
from app.experiments import rate_search as capacity
from app.experiments import stop_rule
from app.experiments.file import changing, read_experiment, read_specs, write_experiment, write_progress
from app.experiments.plan import FINAL_STATES, MOST_ATTEMPTS, Experiment, Turn, spec_of_turn, with_turn
from app.experiments.rate_search import STOPPED_EARLY
from app.experiments.saturation import RateWatch
from app.home import Home
from app.runs.process import start_fork_server
from app.runs.queue import RunQueue
from engine.config import RunSpec
from store import queries
from store.aside import rows_aside
from telemetry.folder import is_run
from telemetry.refusal import in_words
from telemetry.status import is_final, read_status, state

log = logging.getLogger("servescope.experiments")
LOOK_S = 0.2
Submit = Callable[[RunSpec], object]
Cancel = Callable[[str], object]


class Driver:
    """Moves one experiment on, look by look. Raises ``Timeout`` from the constructor where another driver has it."""

    def __init__(self, home: Home, experiment_id: str, submit: Submit, cancel: Cancel | None = None) -> None:
        self.home = home
        self.experiment_id = experiment_id
        self._submit, self._cancel = submit, cancel
        self._watch: RateWatch | None = None
        self._lock = FileLock(home.locks / f"experiment-{experiment_id}.lock", thread_local=False)
        self._lock.acquire(blocking=False)
        self._specs = read_specs(home, read_experiment(home, experiment_id))

    def step(self) -> Experiment:
        """One look: settle the run that ended, begin the next. Returns the experiment as it is now."""
        experiment = read_experiment(self.home, self.experiment_id)
        if experiment.state != "running":
            return experiment
        index = next((n for n, turn in enumerate(experiment.turns) if not turn.done), None)
        if index is None:
            following = capacity.next_turn(experiment) if experiment.kind == "capacity" else None
            if following is not None:
                return self._write(replace(experiment, turns=(*experiment.turns, following)))
            more = stop_rule.another_repeat(experiment)
            if more is not None:
                return self._write(more)
            return self._write(replace(experiment, state="finished"))
        turn = experiment.turns[index]
        run_dir = self.home.runs / turn.run_id if turn.run_id else None
        if run_dir is None or not is_run(run_dir):
            return self._begin(experiment, index)
        status = read_status(run_dir)
        if not is_final(status):
            return self._look_at_rate(experiment, index)
        if state(status) == "finished" or turn.figures.get(STOPPED_EARLY):
            return self._settle(experiment, index)
        if state(status) != "failed" and turn.attempts < MOST_ATTEMPTS:
            return self._begin(experiment, index)
        error = status.get("error") or {}
        said = in_words(error) or f"It was {state(status)}."
        return self._write(replace(experiment, state="failed", problem=f"Run {turn.run_id} {state(status)}: {said}"))

    def release(self) -> None:
        self._lock.release()

    def _look_at_rate(self, experiment: Experiment, index: int) -> Experiment:
        """Stop the run of a rate that cannot hold any more."""
        turn = experiment.turns[index]
        if turn.rate is None or self._cancel is None or turn.figures.get(STOPPED_EARLY):
            return experiment
        if self._watch is None or self._watch.run_id != turn.run_id:
            self._watch = RateWatch(self.home, experiment, turn.run_id)
        if not self._watch.cannot_hold():
            return experiment
        stopped = self._write(with_turn(experiment, index, figures={STOPPED_EARLY: 1.0}))
        self._cancel(turn.run_id)
        return stopped

    def _settle(self, experiment: Experiment, index: int) -> Experiment:
        """Keep what a run that is over showed; one that was disturbed is served again, as often as the plan allows."""
        turn = experiment.turns[index]
        if turn.warm_up:
            return self._write(with_turn(experiment, index, done=True))
        if turn.attempts <= experiment.again and is_disturbed(self.home, turn.run_id):
            return self._begin(with_turn(experiment, index, figures={}), index)
        if experiment.kind != "capacity":
            figures = stop_rule.measure(self.home, experiment, turn.run_id)
            return self._write(with_turn(experiment, index, done=True, figures=figures))
        early = {STOPPED_EARLY: 1.0} if turn.figures.get(STOPPED_EARLY) else {}
        held, figures = capacity.measure(self.home, experiment, turn)
        return self._write(with_turn(experiment, index, done=True, held=held and not early, figures=figures | early))

    def _begin(self, experiment: Experiment, index: int) -> Experiment:
        turn = experiment.turns[index]
        spec = spec_of_turn(self._specs, experiment, index)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        # Written first: a driver that dies in between leaves a turn whose run is not there, and it is begun again.
        begun = self._write(with_turn(experiment, index, run_id=spec.run_id, attempts=turn.attempts + 1, load=load))
        if begun.state != "running":
            return begun
        try:
            self._submit(spec)
        except LabError as error:
            return self._write(replace(begun, state="failed", problem=in_words(error)))
        return begun

    def _write(self, experiment: Experiment) -> Experiment:
        there = self.home.experiment_dir(self.experiment_id).is_dir()
        return write_progress(self.home, experiment) if there else experiment


def is_disturbed(home: Home, run_id: str) -> bool:
    """Whether a finished run's rows show that something disturbed it."""
    with rows_aside(home.runs, [run_id]) as rows:
        return bool(queries.labels(rows.con, run_id)["disturbances"])


class Experimenter:
    """The lab's thread that takes up every unfinished experiment nobody drives."""

    def __init__(self, home: Home, submit: Submit, cancel: Cancel | None = None) -> None:
        self._home, self._submit, self._cancel = home, submit, cancel
        self._drivers: dict[str, Driver] = {}
        self._over: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Experimenter:
        self._thread = threading.Thread(target=self._loop, name="experiments", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Leave experiments as they are; the next lab goes on with them."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for driver in self._drivers.values():
            driver.release()

    def look(self) -> None:
        """One look at every experiment."""
        for experiment_id in self._home.experiment_ids():
            if experiment_id in self._over:
                continue
            try:
                experiment = read_experiment(self._home, experiment_id)
                if experiment.state in FINAL_STATES:
                    self._over.add(experiment_id)
                if experiment.state != "running":
                    self._drop(experiment_id)
                    continue
                if experiment_id not in self._drivers:
                    self._drivers[experiment_id] = Driver(self._home, experiment_id, self._submit, self._cancel)
                self._drivers[experiment_id].step()
            except Timeout:
                continue  # somebody else drives it
            except Exception as error:  # this experiment's trouble: the others go on
                known = isinstance(error, LabError | OSError)
                log.warning("experiment %s cannot go on: %s", experiment_id, error, exc_info=not known)
                self._drop(experiment_id)
                self._over.add(experiment_id)

    def take_up(self, experiment_id: str) -> None:
        """Look at an experiment again that was over."""
        self._over.discard(experiment_id)

    def _drop(self, experiment_id: str) -> None:
        driver = self._drivers.pop(experiment_id, None)
        if driver is not None:
            driver.release()

    def _loop(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except Exception:
                log.exception("the experiments stumbled; they go on")


def drive_here(home: Home, experiment_id: str) -> tuple[Driver, RunQueue]:
    """A driver with a run queue of its own, for a command line with no lab. Raises ``Timeout`` where another has it."""
    queue = RunQueue(home, only="none")
    start_fork_server(queue.environment)

    def submit(spec: RunSpec) -> None:
        queue.only = spec.run_id
        queue.submit(spec)

    driver = Driver(home, experiment_id, submit, queue.cancel)
    current = current_turn(read_experiment(home, experiment_id))
    if current is not None and current.run_id:
        queue.only = current.run_id  # a worker that outlived its supervisor is taken over
    return driver, queue


def pause(home: Home, experiment_id: str, cancel: Callable[[str], object] | None = None) -> None:
    """Stop an experiment where it is; what is done is kept. ``cancel(run_id)`` ends the run in progress."""
    with changing(home, experiment_id):
        experiment = read_experiment(home, experiment_id)
        if experiment.state != "running":
            return
        write_experiment(home, replace(experiment, state="paused"))
    turn = current_turn(experiment)
    if cancel is not None and turn is not None and turn.run_id and is_run(home.runs / turn.run_id):
        cancel(turn.run_id)


def resume(home: Home, experiment_id: str) -> Experiment:
    """Let a paused or failed experiment go on: the turn it stopped at is tried afresh."""
    with changing(home, experiment_id):
        experiment = read_experiment(home, experiment_id)
        if experiment.state in ("paused", "failed"):
            experiment = replace(experiment, state="running", problem="")
            write_experiment(home, experiment)
    return experiment


def current_turn(experiment: Experiment) -> Turn | None:
    """The turn that is being served or comes next; None at the end."""
    return next((turn for turn in experiment.turns if not turn.done), None)


def runs_planned(experiment: Experiment) -> int:
    """How many runs it takes; of a search, and of a comparison that adds repeats, at most."""
    if experiment.kind == "capacity":
        return capacity.most_runs(experiment)
    if experiment.stop is not None and experiment.state != "finished":
        return max(len(experiment.turns), 1 + experiment.stop.most * len(experiment.variants))
    return len(experiment.turns)


def is_bounded(experiment: Experiment) -> bool:
    """Whether it may take fewer runs than are planned."""
    return experiment.kind == "capacity" or experiment.stop is not None


def seconds_left(home: Home, experiment: Experiment) -> float | None:
    """How long the rest will take if its runs take as long as those that are done; None before the first is."""
    took = []
    for turn in experiment.turns:
        if turn.done and not turn.warm_up:
            status = read_status(home.runs / turn.run_id)
            began, ended = status.get("started_unix_ns"), status.get("ended_unix_ns")
            if began and ended:
                took.append((ended - began) / 1e9)
    left = runs_planned(experiment) - sum(turn.done for turn in experiment.turns)
    if experiment.state == "finished":
        left = 0
    return left * sum(took) / len(took) if took else None
