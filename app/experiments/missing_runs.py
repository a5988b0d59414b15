"""Runs that an experiment rests on and that were deleted: which, what is left without them, and how to have them
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.errors import LabError
from app.experiments.file import changing, read_experiment, write_experiment
from app.experiments.plan import Experiment, Turn
from app.home import Home
from telemetry.folder import is_run


@dataclass(frozen=True)
class Missing:
    """A finished run of an experiment that is not there any more."""

    turn: Turn
    in_trash: bool

    @property
    def words(self) -> str:
        """``repeat 2 of on (x-20261126-003)``."""
        return f"{part_in_words(self.turn)} ({self.turn.run_id})"


def part_in_words(turn: Turn) -> str:
    """Which part of an experiment a run is."""
    if turn.rate is not None:
        return f"{turn.variant} at {turn.rate:.3g} requests/s"
    return f"the warm-up of {turn.variant}" if turn.warm_up else f"repeat {turn.repeat + 1} of {turn.variant}"


def missing_runs(home: Home, experiment: Experiment) -> tuple[Missing, ...]:
    """Finished runs that are not among the store's any more, in the order in which they were served; a warm-up is
    missed by nobody.
    """
    trashed = set(home.trashed_ids())
    return tuple(
        Missing(turn, turn.run_id in trashed)
        for turn in experiment.turns
        if turn.done and not turn.warm_up and turn.run_id and not is_run(home.run_dir(turn.run_id))
    )


def without(experiment: Experiment, missing: Sequence[Missing]) -> Experiment:
    """The experiment as if the repeats that lack a run had not been served: on every side, for the sides are paired by
    repeat.
    """
    broken = {gone.turn.repeat for gone in missing}
    turns = [
        replace(turn, done=False) if turn.repeat in broken and not turn.warm_up else turn for turn in experiment.turns
    ]
    return replace(experiment, turns=tuple(turns)) if missing else experiment


def as_it_is(home: Home, experiment: Experiment) -> Experiment:
    """The experiment, resting on the runs that are there."""
    return experiment if experiment.kind == "capacity" else without(experiment, missing_runs(home, experiment))


def serve_again(home: Home, experiment_id: str) -> Experiment:
    """Have the runs that are neither here nor in the trash served once more; whoever drives experiments takes it up."""
    with changing(home, experiment_id):
        experiment = read_experiment(home, experiment_id)
        gone = {missing.turn.run_id for missing in missing_runs(home, experiment) if not missing.in_trash}
        turns = [replace(turn, done=False, run_id="") if turn.run_id in gone else turn for turn in experiment.turns]
        again = replace(experiment, turns=tuple(turns), state="running", problem="")
        write_experiment(home, again)
    return again


def what_rests_on(home: Home, run_id: str, experiment_id: str | None) -> str | None:
    """What a run is to an experiment, and what deleting it costs, in a sentence; None where nothing rests on it.

    ``experiment_id``: the one that it was served for. One that was served for none may be the first repeat of any.
    """
    for name in [experiment_id] if experiment_id else home.experiment_ids():
        try:
            experiment = read_experiment(home, name)
        except LabError:
            continue
        turn = next((turn for turn in experiment.turns if turn.run_id == run_id), None)
        if turn is not None and not turn.warm_up:
            return _what_it_costs(home, experiment, turn)
    return None


def _what_it_costs(home: Home, experiment: Experiment, turn: Turn) -> str | None:
    part = f"{part_in_words(turn)} in “{experiment.title}” ({experiment.experiment_id})"
    if not turn.done:
        return f"This is {part}, which is not over: it will be served again." if experiment.state == "running" else None
    if experiment.kind == "capacity":
        return f"This is {part}. Its figures stay in the search; the run itself can then not be opened."
    here = as_it_is(home, experiment)
    left = without(here, [Missing(turn, True)]).complete_repeats()
    return f"This is {part}. Without it the comparison rests on {left} of {experiment.repeats} repeats."
