"""What a scenario says should come out, held against runs: seen, refuted, or left open, with the figures that say so.

One run on each side shows a direction only where it is larger than ``store.statistics.SMALL``; with repeats the
interval of the ratio decides. Counts, such as tokens, do not scatter, and every difference counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import duckdb
import numpy as np

from app.settings import controls as book
from app.words.text import number
from engine.config import EngineConfig
from scenarios import ScenarioError, load
from scenarios.schema import ExpectedFigure
from store.claim_figures import RunFigures, title_of, unit_of
from store.metrics import percentile_name
from store.predicates import around
from store.samples import RunSamples, alone
from store.slo import DEFAULT_SLO, Alone, parse_slo
from store.statistics import FAST_UNITS, SMALL, STATISTICS
from store.summary import summary

Outcome = Literal["seen", "refuted", "open", "not tested"]
WORST_FIRST: tuple[Outcome, ...] = ("refuted", "open", "seen")


@dataclass(frozen=True)
class Side:
    """One way to serve, and the runs that were served so, by repeat."""

    name: str
    engine: EngineConfig
    runs: Sequence[str]


@dataclass(frozen=True)
class Expected:
    """A line of the scenario, and what the runs say of it. ``why``: the figures in words, or what is missing."""

    says: str
    outcome: Outcome
    why: str = ""


def expectations(
    con: duckdb.DuckDBPyConnection, scenario: str, sides: Sequence[Side], samples: Sequence[RunSamples] = ()
) -> list[dict[str, Any]]:
    """Every expectation of a scenario as plain data; none of a scenario that is not here any more. ``samples``: of runs
    that were read already.
    """
    try:
        lines = load(scenario).expectations
    except ScenarioError:
        return []
    figures = _Figures(con, sides, samples)
    judged = []
    for line in lines:
        pair = next((pair for pair in _pairs(sides) if meant(line.settings, pair[0].engine, pair[1].engine)), None)
        if not line.figures:
            judged.append(Expected(line.says, "not tested", "For people to judge: no figure stands for it."))
        elif pair is None:
            settings = ", ".join(f"{path} {wanted}" for path, wanted in line.settings.items())
            judged.append(
                Expected(line.says, "not tested", f"These runs do not differ in what it is about ({settings}).")
            )
        else:
            outcomes = [_check(figure, *figures.of(figure, *pair)) for figure in line.figures]
            outcome = min((outcome for outcome, _ in outcomes), key=WORST_FIRST.index)
            judged.append(Expected(line.says, outcome, "; ".join(why for _, why in outcomes) + "."))
    return [asdict(one) for one in judged]


def meant(when: Mapping[str, str], one: EngineConfig, other: EngineConfig) -> bool:
    """Whether ``one`` is the side that an expectation speaks of and ``other`` is not. A value may be ``larger`` or
    ``smaller``.
    """
    return bool(when) and all(_differs(path, wanted, one, other) for path, wanted in when.items())


def _differs(path: str, wanted: str, one: EngineConfig, other: EngineConfig) -> bool:
    control = next((control for control in book.controls() if control.path == path), None)
    if control is None:
        return False
    mine, theirs = (book.as_text(control, book.value_of(engine, path)) for engine in (one, other))
    if wanted in ("larger", "smaller"):
        try:
            return float(mine) > float(theirs) if wanted == "larger" else float(mine) < float(theirs)
        except ValueError:
            return False
    technique = path.rpartition(".")[0]
    is_on = not technique or getattr(one, technique) is not None
    return is_on and mine == wanted and (theirs != wanted or (bool(technique) and getattr(other, technique) is None))


def _pairs(sides: Sequence[Side]) -> list[tuple[Side, Side]]:
    return [(one, other) for one in sides for other in sides if one is not other]


class _Figures:
    """Figures of runs, each read once."""

    def __init__(self, con: duckdb.DuckDBPyConnection, sides: Sequence[Side], samples: Sequence[RunSamples]) -> None:
        self._con = con
        self._alone: Alone | None = None
        self._first = list(sides[0].runs) if sides else []
        self._read = {run.run_id: RunFigures.of(con, run) for run in samples}
        self._summaries: dict[str, dict[str, Any]] = {}

    def of(self, figure: ExpectedFigure, one: Side, other: Side) -> tuple[np.ndarray, np.ndarray]:
        """The figure of both sides ``[repeats]``; NaN where a run has none."""
        count = min(len(one.runs), len(other.runs))
        pairs = list(zip(one.runs[:count], other.runs[:count], strict=True))
        return (
            np.array([self._value(figure, mine, theirs) for mine, theirs in pairs], np.float64),
            np.array([self._value(figure, theirs, theirs) for _, theirs in pairs], np.float64),
        )

    def _value(self, figure: ExpectedFigure, run: str, other: str) -> float:
        if figure.group is None:
            return self._run(run).value(self._con, figure.of, self._run(other))
        if run not in self._summaries:
            self._summaries[run] = summary(self._con, run) or {}
        statistic = STATISTICS[figure.of]
        told = (self._summaries[run].get("groups") or {}).get(figure.group, {}).get(statistic.metric)
        value = told.get(percentile_name(statistic.share)) if isinstance(told, dict) and statistic.share else told
        return float("nan") if value is None else float(value)

    def _run(self, run: str) -> RunFigures:
        if run not in self._read:
            self._alone = self._alone or alone(self._con, self._first)
            self._read[run] = RunFigures.read(self._con, run, parse_slo(DEFAULT_SLO), self._alone)
        return self._read[run]


def _check(figure: ExpectedFigure, mine: np.ndarray, theirs: np.ndarray) -> tuple[Outcome, str]:
    """One figure of the side that the line speaks of against the other side's, and it in words."""
    title = title_of(figure.of).partition(",")[0] if figure.of == "same_tokens" else title_of(figure.of)
    named = f"{title} of {figure.group}" if figure.group else title
    if not (len(mine) and np.isfinite(mine).all() and np.isfinite(theirs).all()):
        return "open", f"{named}: not recorded"
    if figure.of == "same_tokens":
        return ("seen", "the same tokens") if (mine == 1).all() else ("refuted", "other tokens")
    a, b = float(mine.mean()), float(theirs.mean())
    said = f"{named}: {number(a)} against {number(b)}"
    if figure.goes == "zero":
        outcome: Outcome = "refuted" if a > 0 else "seen" if b > 0 else "open"
        return outcome, said
    went, beside = _direction(figure, mine, theirs)
    return ("open" if went is None else "seen" if went == figure.goes else "refuted"), f"{said}{beside}"


def _direction(figure: ExpectedFigure, mine: np.ndarray, theirs: np.ndarray) -> tuple[str | None, str]:
    """Where the figure went (``up``, ``down``, ``same``), None where the runs do not say; and how surely, in words."""
    if unit_of(figure.of) not in FAST_UNITS:
        change = float(np.sign((mine - theirs).mean()))
        return {-1.0: "down", 0.0: "same", 1.0: "up"}[change], ""
    if not ((mine > 0).all() and (theirs > 0).all()):
        return None, ", and a ratio needs figures above zero"
    if len(mine) == 1:
        ratio = float(mine[0] / theirs[0])
        if 1 / (1 + SMALL) <= ratio <= 1 + SMALL:
            return None, f" (x{ratio:.3g}: too close for one pair)"
        return ("down" if ratio < 1 else "up"), f" (x{ratio:.3g})"
    ratio, (low, high) = around(mine / theirs, log=True)
    beside = f" (x{ratio:.3g}, {low:.3g} to {high:.3g})"
    return ("down" if high < 1 else "up" if low > 1 else None), beside
