"""A comparison that goes on from two runs that were served already: they are its first repeat."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from app.errors import LabError
from app.experiments.plan import Experiment, Turn, Variant, refuse_unlike
from app.experiments.stop_rule import checked, measure
from app.home import Home
from app.runs.folder import read_spec
from app.settings import controls as book
from engine.config import EngineConfig, RunSpec
from scenarios import ScenarioError, load, new_run_id
from store.plan import StopRule


def repeats_of(home: Home, runs: Mapping[str, str], stop: StopRule) -> tuple[Experiment, dict[str, RunSpec]]:
    """A comparison of the runs (``name -> run id``; the first is the baseline), which adds repeats as ``stop`` says.

    Raises ``LabError`` where the runs cannot be compared, or their figure cannot be narrowed.
    """
    checked(stop)
    specs = {name: read_spec(home.existing_run_dir(run)) for name, run in runs.items()}
    baseline, base = next(iter(specs.items()))
    for name, spec in specs.items():
        refuse_unlike(baseline, base, name, spec)
    usual, question = _scenario(base.scenario)
    first = tuple(Turn(name, 0, run_id=run, attempts=1, done=True) for name, run in runs.items())
    experiment = Experiment(
        experiment_id=f"x-{new_run_id()}",
        kind="compare",
        scenario=base.scenario,
        title=base.title or base.scenario,
        question=question,
        variants=tuple(Variant(name, book.settings_of(usual, spec.engine)) for name, spec in specs.items()),
        repeats=1,
        turns=(Turn(baseline, 0, warm_up=True), *first),
        workload_hashes={name: spec.workload_hash for name, spec in specs.items()},
        created_unix_ns=time.time_ns(),
        sizing=base.sizing.in_words if base.sizing is not None else "",
        stop=stop,
    )
    measured = tuple(
        turn if turn.warm_up else replace(turn, figures=measure(home, experiment, turn.run_id))
        for turn in experiment.turns
    )
    lacking = next(
        (turn for turn in measured if not turn.warm_up and not (turn.figures.get(stop.metric) or 0) > 0), None
    )
    if lacking is not None:
        said = f"The run {lacking.run_id} has no {stop.metric}, so no repeat can narrow it."
        raise LabError("not-comparable", field="--until", value=stop.metric, message=said, mend="Take another figure.")
    return replace(experiment, turns=measured), specs


def _scenario(name: str) -> tuple[EngineConfig, str]:
    """The scenario's own settings and question; of one that is not here, the defaults and none."""
    try:
        scenario = load(name)
    except ScenarioError:
        return EngineConfig(), ""
    return scenario.engine, scenario.question
