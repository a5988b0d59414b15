"""An experiment's result in a few words, for lists: cheap, from what its file and its runs' summaries say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.experiments.plan import Experiment
from app.experiments.rate_search import bisection, decided, verdicts
from app.runs.run_figures import COLUMNS, value_at
from app.words.text import number
from store.metrics import METRICS
from store.statistics import STATISTICS, Statistic

USUAL = "itl_ms_p99"
MOST_NAMED = 3  # variants whose figure is named; of more, the best

Figures = Mapping[str, Mapping[str, Any] | None]
"""Run -> the figures of its summary."""


def main_figure(experiment: Experiment, figures: Figures) -> str:
    """What came out: ratios against the baseline, the best of a sweep, or capacities; "" while there is nothing."""
    if experiment.kind == "capacity":
        return _capacities(experiment)
    statistic = STATISTICS[experiment.stop.metric if experiment.stop is not None else USUAL]
    values = {
        variant.name: value
        for variant in experiment.variants
        if (value := _mean(experiment, variant.name, statistic, figures)) is not None
    }
    if experiment.baseline not in values or len(values) < 2:
        return ""
    title = COLUMNS.get(path_of(statistic), statistic.title).partition(",")[0]
    if experiment.kind == "compare" and len(values) <= MOST_NAMED:
        base = values[experiment.baseline]
        if base <= 0:
            return ""
        others = [f"{n} x{number(v / base)}" for n, v in values.items() if n != experiment.baseline]
        return f"{title}: {', '.join(others)} of {experiment.baseline}"
    best = (min if METRICS[statistic.metric].better == "lower" else max)(values, key=lambda name: values[name])
    return f"{title}: best with {best}, {number(values[best])} {statistic.unit}".rstrip()


def path_of(statistic: Statistic) -> str:
    """Where a run's summary has the statistic."""
    return statistic.metric if statistic.share is None else f"{statistic.metric}.p{round(100 * statistic.share)}"


def _mean(experiment: Experiment, name: str, statistic: Statistic, figures: Figures) -> float | None:
    """The mean over the repeats that every variant has finished; None where one of them lacks it."""
    runs = experiment.runs_of(name)[: experiment.complete_repeats()]
    values = [value_at(figures.get(run), path_of(statistic)) for run in runs]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _capacities(experiment: Experiment) -> str:
    assert experiment.search is not None
    said = []
    for variant in experiment.variants:
        held, failed = bisection(experiment.search).bracket(decided(verdicts(experiment, variant.name)))
        if held is not None:
            said.append(f"{variant.name}: {held:.3g} requests/s")
        elif failed is not None:
            said.append(f"{variant.name}: below {failed:.3g} requests/s")
    return "; ".join(said)
