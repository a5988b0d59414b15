"""The command that serves a run or an experiment again, as it is typed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.experiments.plan import Experiment
from app.settings import controls as book
from engine.config import EngineConfig
from scenarios import ScenarioError, load


def run_command(scenario: str, engine: Mapping[str, Any], workload: Mapping[str, str] | None = None) -> str:
    """The command that serves a scenario as a run was served.

    A scenario that is not here any more is named alone.

    Args:
        engine: the run's settings as they were stored.
        workload: the workload settings it was given, by dotted name.
    """
    try:
        base, served = load(scenario).engine, EngineConfig.model_validate(engine)
    except (ScenarioError, ValidationError):
        return f"servescope run {scenario}"
    changed = book.settings_of(base, served) | dict(workload or {})
    return " ".join(["servescope run", scenario, *(f"--set {shlex.quote(f'{k}={v}')}" for k, v in changed.items())])


def compare_command(experiment: Experiment) -> str:
    if experiment.kind == "sweep":
        over = " ".join(f"--over {key}={','.join(values)}" for key, values in experiment.over.items())
        shared = {k: v for k, v in experiment.variants[0].settings.items() if k not in experiment.over}
        common = "".join(f" --set {shlex.quote(f'{k}={v}')}" for k, v in shared.items())
        return (
            f"servescope sweep {experiment.scenario} {over}{common} --repeats {experiment.repeats}{_again(experiment)}"
        )
    if experiment.stop is not None:
        rule = experiment.stop
        repeats = f"--until {rule.metric}={100 * rule.width:g}% --most {rule.most}"
    else:
        repeats = f"--repeats {experiment.repeats}"
    seeds = " --seeds" if experiment.draws else ""
    return (
        f"servescope compare {experiment.scenario} {variant_options(experiment)} {repeats}{seeds}{_again(experiment)}"
    )


def _again(experiment: Experiment) -> str:
    return f" --again {experiment.again}" if experiment.again else ""


def variant_options(experiment: Experiment) -> str:
    """The variants as a command takes them."""
    return " ".join(
        f"--variant '{v.name}:{','.join(f'{key}={value}' for key, value in v.settings.items())}'"
        for v in experiment.variants
    )


def rate_search_command(experiment: Experiment, result: Mapping[str, Any]) -> str:
    assert experiment.search is not None
    bound = experiment.search.tbt_ms
    by = f"--tbt {bound:g}" if bound is not None else f"--slo {experiment.slo}"
    limits = f"--low {result['low']:g} --high {result['high']:g} --tolerance {result['tolerance']:g}"
    again = f"--repeats {experiment.repeats} {limits} {by}{_again(experiment)}"
    return f"servescope capacity {experiment.scenario} {variant_options(experiment)} {again}"
