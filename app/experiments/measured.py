"""What an experiment measured, by the names that the file of its measurement gives.

Figures over repeats, and where the effect can exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np

from app.experiments.tables import with_interval
from scenarios.measurement import Measurement, Point, Regime
from scenarios.measurement_file import variant_name
from store import predicates
from store.claim_figures import RunFigures, title_of
from store.gates import Pair
from store.plan import Experiment
from store.regimes import Reached, regime
from store.samples import alone
from store.slo import parse_slo


class Measured:
    """The runs of an experiment that is over, read as its measurement says. ``points``: those it was served at."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        experiment: Experiment,
        measurement: Measurement,
        points: Sequence[Point | None],
    ) -> None:
        self.con, self.measurement, self.points = con, measurement, points
        self.places = [point.x for point in points if point is not None]
        slo, unloaded = parse_slo(experiment.slo), alone(con, experiment.runs_of(experiment.baseline))
        self._runs = {
            variant.name: [RunFigures.read(con, run, slo, unloaded) for run in experiment.runs_of(variant.name)]
            for variant in experiment.variants
        }
        self._figures: dict[str, np.ndarray] = {}

    def figure(self, name: str) -> np.ndarray:
        """A figure ``[points, repeats]``; one row of a figure at one point, or where nothing is swept."""
        if name not in self._figures:
            figure = self.measurement.figures[name]
            if figure.metric is not None and figure.of is not None:
                points = [p for p in self.points if figure.at is None or (p is not None and p.x == figure.at)]
                rows = [self._measured(figure.metric, figure.of, point) for point in points]
                self._figures[name] = np.array(rows, np.float64)
            else:
                first, second = (self.figure(part) for part in figure.parts)
                with np.errstate(divide="ignore", invalid="ignore"):
                    self._figures[name] = first / second if figure.ratio else first - second
        return self._figures[name]

    def drawn(self, name: str) -> dict[str, Any]:
        """A figure as a report shows it: title, places, values and intervals."""
        figure, rows = self.measurement.figures[name], self.figure(name)
        if figure.metric is not None:
            title = f"{title_of(figure.metric)} ({figure.of}{'' if figure.at is None else f' @ {figure.at:g}'})"
        else:
            title = f"{figure.parts[0]} {'over' if figure.ratio else 'less'} {figure.parts[1]}"
        log = figure.ratio is not None and bool(np.all(rows > 0))
        around = [predicates.around(row, log=log) for row in rows]
        known = [None if not np.isfinite(value) else value for value, _ in around]
        ends = [None if not np.all(np.isfinite(pair)) else pair for _, pair in around]
        places = self.places if len(rows) == len(self.places) else [None] * len(rows)
        return {"title": title, "x": places, "values": known, "intervals": ends}

    def regimes(self) -> list[tuple[Regime, Reached]]:
        """Each regime of the measurement, and what its variant's first run says of it."""
        return [(of, regime(self.con, of.kind, self._run_of(of), of.least)) for of in self.measurement.regimes]

    def all_runs(self) -> Iterator[RunFigures]:
        for runs in self._runs.values():
            yield from runs

    def pairs(self, of: str, point: Point | None) -> list[Pair]:
        """A variant's runs at a point, each with the baseline's of the same repeat."""
        own, base = (self._runs[variant_name(name, point)] for name in (of, self.measurement.baseline))
        return list(zip(own, base, strict=True))

    def notes(self) -> list[str]:
        """Percentiles of too few samples, and machines that were disturbed."""
        said = dict.fromkeys(
            f"{figure.of}: {words}"
            for figure in self.measurement.figures.values()
            if figure.metric is not None and figure.of is not None
            for point in self.points
            for run in self._runs[variant_name(figure.of, point)]
            if (words := run.too_few(figure.metric))
        )
        runs = list(self.all_runs())
        disturbed = sorted(run.run_id for run in runs if run.samples.machine.get("disturbances"))
        if disturbed:
            said[f"Disturbed while served: {len(disturbed)} of {len(runs)} runs, such as {disturbed[0]}."] = None
        return list(said)

    def _measured(self, metric: str, of: str, point: Point | None) -> list[float]:
        return [own.value(self.con, metric, base) for own, base in self.pairs(of, point)]

    def _run_of(self, of: Regime) -> RunFigures:
        point = next((p for p in self.points if p is not None and p.x == of.at), self.points[-1])
        return self._runs[variant_name(of.of, point)][0]


def absent(regimes: Sequence[tuple[Regime, Reached]]) -> list[str]:
    """In a sentence or two each: regimes that were not reached, and what would reach them."""
    return [
        f"{reached.says}. {of.knob} would have to be {reached.size}." if reached.size else f"{reached.says}."
        for of, reached in regimes
        if reached.value is None or reached.value < of.least
    ]


def figure_rows(figures: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Figures as ``Measured.drawn`` gives them, as rows: name, what it is, where on the sweep, value with interval."""
    rows = []
    for name, drawn in figures.items():
        for x, value, ends in zip(drawn["x"], drawn["values"], drawn["intervals"], strict=True):
            rows.append((name, drawn["title"], "" if x is None else f"{x:g}", with_interval(value, ends) or "none"))
    return rows
