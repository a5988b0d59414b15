"""What a clicked point of the Compare page stands for: a run, and of it a request or an iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb

from app.experiments.plan import Experiment
from store.samples import RunSamples, emission_near

Point = Mapping[str, Any]
Target = dict[str, str] | None


def request_of(samples: Mapping[str, Sequence[RunSamples]], metric: str) -> Callable[[Point], Target]:
    """Of a distribution over requests: ``customdata`` is the request's place among its variant's repeats together."""
    variants = list(samples)

    def target(point: Point) -> Target:
        place = _number(point)
        if place is None:
            return None
        for run in samples[variants[int(point["curve_number"])]]:
            size = len(run.requests[metric])
            if place < size:
                return {"run": run.run_id, "request": str(place)}
            place -= size
        return None

    return target


def emission_of(
    con: duckdb.DuckDBPyConnection, samples: Mapping[str, Sequence[RunSamples]]
) -> Callable[[Point], Target]:
    """Of the distribution of gaps: the iteration with the emission nearest to the point's gap."""
    variants = list(samples)

    def target(point: Point) -> Target:
        runs = [run.run_id for run in samples[variants[int(point["curve_number"])]]]
        emission = emission_near(con, runs, float(point["x"]))
        return emission and {"run": str(emission["run_id"]), "iteration": str(emission["iteration"])}

    return target


def iteration_of(first: Mapping[str, str]) -> Callable[[Point], Target]:
    """Of the timelines: ``customdata`` begins with the iteration. ``first``: variant -> run, in the order of the
    strips.
    """
    runs = list(first.values())

    def target(point: Point) -> Target:
        iteration = _number(point)
        place = int(point["curve_number"])
        return None if iteration is None else {"run": runs[place], "iteration": str(iteration)}

    return target


def run_of(first: Mapping[str, str]) -> Callable[[Point], Target]:
    """Of a chart with a mark per variant: ``customdata`` is the variant's name."""

    def target(point: Point) -> Target:
        name = _custom(point)
        return {"run": first[name]} if name in first else None

    return target


def cell_of(experiment: Experiment, first: Mapping[str, str]) -> Callable[[Point], Target]:
    """Of the grid of a sweep over two settings."""
    x, y = experiment.over

    def target(point: Point) -> Target:
        for variant in experiment.variants:
            if (variant.settings[x], variant.settings[y]) == (str(point.get("x")), str(point.get("y"))):
                return {"run": first[variant.name]} if variant.name in first else None
        return None

    return target


def _custom(point: Point) -> Any:
    custom = point.get("customdata")
    if isinstance(custom, Mapping):
        custom = list(custom.values())
    return custom[0] if isinstance(custom, list | tuple) and custom else custom


def _number(point: Point) -> int | None:
    try:
        return int(_custom(point))
    except (TypeError, ValueError):
        return None
