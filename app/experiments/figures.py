"""The charts of a comparison's result, as the page and the exported file draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.charts.comparison import Point, curve, heat_map, throughput_latency
from app.charts.objectives import attainment_by_rate
from app.experiments.plan import Experiment
from app.experiments.rate_points import rate_points
from app.experiments.rate_search import probes
from app.theme import LIGHT
from store.samples import RunSamples
from store.slo import GOODPUT_ATTAINMENT
from store.statistics import STATISTICS

DISTRIBUTIONS = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms")
SWEPT = ("itl_ms_p99", "ttft_ms", "output_tokens_per_s")  # what an exported sweep draws over its settings


def distribution(samples: Mapping[str, Sequence[RunSamples]], metric: str) -> dict[str, np.ndarray]:
    """A metric's samples of every variant, its repeats together; of gaps the middles of their bins, as often as
    counted.
    """
    if metric != "itl_ms":
        return {name: np.concatenate([run.requests[metric] for run in runs]) for name, runs in samples.items()}
    values = {}
    for name, runs in samples.items():
        pooled = []
        for run in runs:
            counts = run.gaps.sum(axis=0)
            middles = np.fmin(
                np.sqrt(run.gap_edges_ms[:-1] * run.gap_edges_ms[1:]), run.totals.get("itl_ms_max", np.nan)
            )
            thin = max(1.0, float(counts.sum()) / 20_000)
            pooled.append(np.repeat(middles, np.ceil(counts / thin).astype(int)))
        values[name] = np.concatenate(pooled) if pooled else np.array([])
    return values


def plane(result: Mapping[str, Any], latency: str = "itl_ms_p99", palette: Any = LIGHT) -> go.Figure:
    """Throughput against a latency, from a comparison's result."""
    speed, slow = result["metrics"].get("output_tokens_per_s", {}), result["metrics"].get(latency, {})
    points = [
        Point(name, speed[name]["value"], slow[name]["value"], speed[name]["interval"], slow[name]["interval"])
        for name in result["variants"]
        if name in speed and name in slow
    ]
    return throughput_latency(points, palette, x_title="output, tokens/s", y_title=f"{STATISTICS[latency].title}, ms")


def sweep_figure(result: Mapping[str, Any], experiment: Experiment, metric: str, palette: Any = LIGHT) -> go.Figure:
    """A figure of a sweep: over one setting a curve, over two a grid."""
    about, effects = STATISTICS[metric], result["metrics"][metric]
    if len(experiment.over) == 1:
        ((name, values),) = experiment.over.items()
        by_value = {variant.settings[name]: variant.name for variant in experiment.variants}
        points = [
            Point(by_value[value], 0.0, _or_nan(effect.get("value")), None, effect.get("interval"))
            for value in values
            for effect in [effects.get(by_value[value]) or {}]
        ]
        limit = slo_line(result, metric)
        return curve(values, points, palette, x_title=name, y_title=about.title, unit=about.unit, limit=limit)
    (x_name, x), (y_name, y) = experiment.over.items()
    grid = np.full((len(y), len(x)), np.nan)
    intervals: dict[tuple[int, int], Any] = {}
    for variant in experiment.variants:
        effect = effects.get(variant.name)
        if effect is not None:
            cell = y.index(variant.settings[y_name]), x.index(variant.settings[x_name])
            grid[cell] = effect["value"]
            intervals |= {cell: effect["interval"]} if effect["interval"] else {}
    return heat_map(x, y, grid, palette, x_title=x_name, y_title=y_name, unit=about.unit, intervals=intervals)


def slo_line(result: Mapping[str, Any], metric: str) -> tuple[float, str] | None:
    """Where the objective bounds a figure, and what to call the line; None of a figure without one bound."""
    slo, about = result["slo"], STATISTICS[metric]
    if metric == "slo_attainment":
        return GOODPUT_ATTAINMENT, f"goodput asks for {GOODPUT_ATTAINMENT:.0%}"
    if about.metric in ("tpot_ms", "itl_ms"):
        step = slo["alone"]["step_ms"] if slo["relative"] else 1.0
        return None if step is None else (slo["tpot"] * step, f"objective {slo['name']}")
    if about.metric == "ttft_ms" and not slo["relative"]:  # else the bound is each prompt's own
        return slo["ttft"], f"objective {slo['name']}"
    return None


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def capacity_rates(experiment: Experiment, result: Mapping[str, Any], palette: Any = LIGHT) -> go.Figure:
    """Attainment at each rate that a search for capacity tried; ``result``: of ``rate_search.capacity_result``."""
    groups = []
    for name, about in result["variants"].items():
        points = rate_points(probes(experiment, name))
        groups.append(
            {
                "name": name,
                "measured": [(point["requests_per_s"], point["attainment"]) for point in points],
                "intervals": [point["interval"] for point in points],
                "runs": [point["runs"][0] for point in points],
                "goodput": about["capacity"],
            }
        )
    return attainment_by_rate(groups, palette, goal=GOODPUT_ATTAINMENT)


def rates(result: Mapping[str, Any], palette: Any = LIGHT) -> go.Figure:
    """Attainment at each rate of a sweep over rates."""
    groups = [
        {
            "name": ", ".join(f"{k}={v}" for k, v in goodput["settings"].items()) or "all",
            "measured": goodput["measured"],
            "intervals": goodput["intervals"],
            "goodput": goodput["requests_per_s"],
        }
        for goodput in result["goodput"]
    ]
    return attainment_by_rate(groups, palette, goal=GOODPUT_ATTAINMENT)
