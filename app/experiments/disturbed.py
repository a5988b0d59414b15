"""Runs of an experiment that something disturbed: which, what is left without them, and how to have them served
again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from app.errors import LabError
from app.experiments.file import changing, read_experiment, write_experiment
from app.experiments.missing_runs import Missing, without
from app.experiments.plan import Experiment, Turn
from app.home import Home
from app.runs.disturbances import disturbances_of
from telemetry.status import read_status


def disturbed_turns(home: Home, experiment: Experiment) -> tuple[Turn, ...]:
    """Those of its finished runs, but a warm-up, that something disturbed, in the order in which they were served."""
    return tuple(
        turn
        for turn in experiment.turns
        if turn.done
        and not turn.warm_up
        and disturbances_of(home.run_dir(turn.run_id), read_status(home.run_dir(turn.run_id)))
    )


def without_disturbed(home: Home, experiment: Experiment) -> Experiment:
    """The experiment as if the repeats with a disturbed run had not been served, on every side."""
    return without(experiment, [Missing(turn, False) for turn in disturbed_turns(home, experiment)])


def resting_on(experiment: Experiment, runs: Collection[str]) -> Experiment:
    """The experiment as if no other runs had been served."""
    turns = [turn if turn.run_id in runs or turn.warm_up else replace(turn, done=False) for turn in experiment.turns]
    return replace(experiment, turns=tuple(turns))


def serve_disturbed_again(home: Home, experiment_id: str, again: int | None = None) -> Experiment:
    """Have the disturbed runs served once more; whoever drives experiments takes it up. ``again``: how often from now
    on at most.

    Raises ``LabError`` for an experiment that is unknown, or that is a search for capacity: what it tries next rests on
    what it has tried.
    """
    with changing(home, experiment_id):
        experiment = read_experiment(home, experiment_id)
        if experiment.kind == "capacity":
            raise LabError(
                "bad-experiment",
                field="--again",
                value=experiment_id,
                message="This is a search for capacity, whose next rates rest on the runs before.",
                mend="Start it anew with --again, which serves a disturbed run again at once.",
            )
        disturbed = {turn.run_id for turn in disturbed_turns(home, experiment)}
        turns = [
            replace(turn, done=False, run_id="", figures={}) if turn.run_id in disturbed else turn
            for turn in experiment.turns
        ]
        state = "running" if disturbed else experiment.state
        changed = replace(
            experiment,
            turns=tuple(turns),
            state=state,
            problem="" if disturbed else experiment.problem,
            again=experiment.again if again is None else again,
        )
        write_experiment(home, changed)
    return changed
