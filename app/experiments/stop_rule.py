"""Repeats until the answer is narrow enough: a comparison adds one after another while its ratio still scatters too
much, up to a cap.

What counts is how wide the interval of the ratio is, never what it says, so stopping favours no verdict. Only the part
that repeats can narrow counts: how much runs of the same requests differ. What other requests would have given stands
in the result's intervals.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from app.errors import LabError
from app.experiments.plan import Experiment, Turn, turns
from app.home import Home
from app.words.plain import counted
from store.aside import rows_aside
from store.plan import MOST_REPEATS, StopRule
from store.predicates import around
from store.samples import read_samples
from store.statistics import FAST_UNITS, STATISTICS, value_of

WIDTH, MOST = 0.05, 12
FIGURES = tuple(
    name for name, statistic in STATISTICS.items() if statistic.unit in FAST_UNITS and name != "in_time_per_s"
)
"""Figures that a rule can be about: times and rates, which are above zero and scatter."""


def checked(rule: StopRule) -> StopRule:
    """The rule. Raises ``LabError`` naming what is wrong with it."""
    if rule.metric not in FIGURES:
        raise LabError(
            "bad-experiment", field="--until", value=rule.metric, message=f"It is none of {', '.join(FIGURES)}."
        )
    if not 0.001 <= rule.width <= 1:
        raise LabError(
            "bad-experiment", field="--until", value=f"{rule.width:g}", message="A width is a share from 0.1% to 100%."
        )
    if not 2 <= rule.most <= MOST_REPEATS:
        said = f"A cap is a number of repeats from 2 to {MOST_REPEATS}."
        raise LabError("bad-experiment", field="--most", value=rule.most, message=said)
    return rule


def measure(home: Home, experiment: Experiment, run_id: str) -> dict[str, float | None]:
    """The rule's figure of a finished run, as its turn keeps it; empty of an experiment without a rule."""
    if experiment.stop is None:
        return {}
    metric = experiment.stop.metric
    with rows_aside(home.runs, [run_id]) as rows:
        value = value_of(read_samples(rows.con, run_id), STATISTICS[metric])
    return {metric: float(value) if np.isfinite(value) else None}


def another_repeat(experiment: Experiment) -> Experiment | None:
    """The experiment with one more repeat to serve; None where it is narrow enough, at its cap, or its figure is
    missing.
    """
    rule = experiment.stop
    if rule is None or experiment.complete_repeats() >= rule.most or (ratios := _ratios(experiment)) is None:
        return None
    width = _width(ratios)
    if width is not None and width <= rule.width:
        return None
    repeats = experiment.repeats + 1
    order = [
        turn
        for turn in turns([v.name for v in experiment.variants], repeats)
        if turn.repeat == repeats - 1 and not turn.warm_up
    ]
    return replace(experiment, repeats=repeats, turns=(*experiment.turns, *order))


def stop_in_words(experiment: Experiment) -> str:
    """Where the rule stands: narrow enough, at its cap, or going on."""
    rule = experiment.stop
    assert rule is not None
    title, repeats = STATISTICS[rule.metric].title, experiment.complete_repeats()
    ratios = _ratios(experiment)
    if ratios is None:
        return f"{title} has no value in one of the runs, so no repeat can narrow its ratio."
    width = _width(ratios)
    if width is None:
        return (
            f"Repeats are added until the ratio of {title} scatters by at most ±{rule.width:.1%}, {rule.most} at most."
        )
    told = f"After {counted(repeats, 'repeat')} the ratio of {title} scatters by ±{width:.1%}"
    if width <= rule.width:
        return f"{told}, within the ±{rule.width:.1%} asked for."
    more = "and the cap is reached" if repeats >= rule.most else "and more are added"
    return f"{told}; ±{rule.width:.1%} is asked for, {more}."


def about(experiment: Experiment) -> dict[str, Any] | None:
    """The rule and where it stands, as plain data."""
    rule = experiment.stop
    if rule is None:
        return None
    ratios = _ratios(experiment)
    width = None if ratios is None else _width(ratios)
    return {
        "metric": rule.metric,
        "width": rule.width,
        "most": rule.most,
        "scatter": width,
        "narrow_enough": width is not None and width <= rule.width,
        "says": stop_in_words(experiment),
    }


def _ratios(experiment: Experiment) -> list[np.ndarray] | None:
    """Of each variant but the baseline, its figure over the baseline's, repeat by repeat; None where a run has no
    figure above zero.
    """
    assert experiment.stop is not None
    count = experiment.complete_repeats()
    figures = [
        [_figure(turn, experiment.stop.metric) for turn in experiment.turns_of(v.name)[:count]]
        for v in experiment.variants
    ]
    if not all(value > 0 for values in figures for value in values):
        return None
    base, *others = (np.array(values, np.float64) for values in figures)
    return [other / base for other in others]


def _figure(turn: Turn, metric: str) -> float:
    value = turn.figures.get(metric)
    return float("nan") if value is None else value


def _width(ratios: list[np.ndarray]) -> float | None:
    """Half the interval of the widest ratio, as a share of it; None of fewer than two repeats."""
    if len(ratios[0]) < 2:
        return None
    return max(high / ratio - 1 for ratio, (_, high) in (around(one, log=True) for one in ratios))
