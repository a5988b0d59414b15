"""What a paper's claim asserts about figures, decided by intervals over repeats: pure functions of numbers.

A figure is an array ``[points, repeats]``: one row for each point of a sweep (one without any), one column per repeat. Repeat ``k`` of
every figure ran in the same round, so figures are set against each other repeat by repeat. An interval is Student's t over repeats
(``store.bootstrap``); of ratios by their logarithm. Figures that do not scatter, such as counts, have no width.

An outcome is decided by the interval alone: *reproduced* where all of it satisfies the predicate; else, where none of it does,
*direction only* if all of it lies on the claimed side of no effect, and *not reproduced* if not; else *inconclusive*. One repeat
says nothing about scatter, and decides nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from store.bootstrap import interval

Outcome = Literal["reproduced", "direction only", "not reproduced", "inconclusive"]
Comparator = Literal["<=", ">="]
Interval = tuple[float, float]

WORST_FIRST: tuple[Outcome, ...] = ("not reproduced", "inconclusive", "direction only", "reproduced")
NO_DRAWS = np.zeros(0)


@dataclass(frozen=True)
class Judged:
    """A predicate's outcome, and the figure it rests on (of several points, where it holds least)."""

    outcome: Outcome
    says: str  # in words, with the numbers
    value: float | None = None
    interval: Interval | None = None


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """What several predicates say together: all must hold."""
    return min(outcomes, key=WORST_FIRST.index)


def ratio(top: np.ndarray, bottom: np.ndarray, comparator: Comparator, threshold: float) -> Judged:
    """``top / bottom`` reaches the threshold at every point; 1 is no effect."""
    if not (np.all(top > 0) and np.all(bottom > 0)):
        return Judged("inconclusive", "a ratio needs figures above zero, and one of these is not")
    points = [around(a / b, log=True) for a, b in zip(top, bottom, strict=True)]
    return _worst_point(points, top.shape[1], comparator, threshold, neutral=1.0)


def difference(first: np.ndarray, second: np.ndarray, comparator: Comparator, threshold: float) -> Judged:
    """``first - second`` reaches the threshold at every point; 0 is no effect."""
    points = [around(row) for row in first - second]
    return _worst_point(points, first.shape[1], comparator, threshold, neutral=0.0)


def level(figure: np.ndarray, comparator: Comparator, threshold: float, neutral: float | None = None) -> Judged:
    """The figure reaches the threshold at every point."""
    return _worst_point([around(row) for row in figure], figure.shape[1], comparator, threshold, neutral)


def slope(steep: np.ndarray, flat: np.ndarray, places: Sequence[float], threshold: float) -> Judged:
    """Over the sweep, ``steep`` rises at least ``threshold`` times as steeply as ``flat``, by least squares; 1 is no effect.

    What is compared is ``steep - threshold * flat``, so that a curve that does not rise at all is no division by zero.
    """
    a, b = slopes(steep, places), slopes(flat, places)
    beyond, right = around(a - threshold * b), around(a - b)
    outcome = _outcome(len(a), beyond[1], ">=", 0.0)
    if outcome == "not reproduced" and right[1][0] > 0:
        outcome = "direction only"
    times = float(a.mean() / b.mean()) if b.mean() > 0 else None
    said = f"{times:.3g} times" if times is not None else "infinitely many times, as the second does not rise:"
    return Judged(outcome, f"the first rises {said} as steeply, {threshold:g} times are claimed", times)


def slopes(figure: np.ndarray, places: Sequence[float]) -> np.ndarray:
    """The slope of each repeat's line through the points by least squares: ``[repeats]``, in the figure's unit per unit of the axis."""
    x = np.asarray(places, np.float64) - np.mean(places)
    return np.asarray(x @ figure / (x @ x))


def crossing(first: np.ndarray, second: np.ndarray, places: Sequence[float]) -> Judged:
    """``first`` is below ``second`` at one point of the sweep and above it at another."""
    intervals = [around(row)[1] for row in first - second]
    below = [f"{x:g}" for x, (_, high) in zip(places, intervals, strict=True) if high < 0]
    above = [f"{x:g}" for x, (low, _) in zip(places, intervals, strict=True) if low > 0]
    said = f"the first is surely below the second at {_listed(below)}, surely above it at {_listed(above)}"
    if first.shape[1] < 2:
        return Judged("inconclusive", said)
    if below and above:
        return Judged("reproduced", said)
    same_side = len(below) == len(intervals) or len(above) == len(intervals)
    return Judged("not reproduced" if same_side else "inconclusive", said)


def monotone(figure: np.ndarray, places: Sequence[float], direction: Literal["rises", "falls"]) -> Judged:
    """From every point to the next the figure rises, or falls."""
    sign = 1 if direction == "rises" else -1
    steps = [around(sign * row)[1] for row in np.diff(figure, axis=0)]
    names = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(places)]
    whole = around(sign * (figure[-1] - figure[0]))[1]
    return _ordered(steps, names, whole, figure.shape[1], f"it {direction}")


def rank(figures: Sequence[np.ndarray], names: Sequence[str]) -> Judged:
    """The figures in this order, the smallest first, at every point."""
    steps, pairs = [], []
    for n in range(len(figures) - 1):
        for row in figures[n + 1] - figures[n]:
            steps.append(around(row)[1])
            pairs.append(f"{names[n]} before {names[n + 1]}")
    whole = min((around(row)[1] for row in figures[-1] - figures[0]), key=lambda ends: ends[0])
    return _ordered(steps, pairs, whole, figures[0].shape[1], "in order")


def within(
    figure: np.ndarray, others: Sequence[np.ndarray], share: float, better: Literal["lower", "higher"]
) -> Judged:
    """At every point the figure is within ``share`` of the best of the others, best by its mean over repeats."""
    choose = np.argmin if better == "lower" else np.argmax
    best = np.array([others[int(choose([o[n].mean() for o in others]))][n] for n in range(len(figure))])
    comparator: Comparator = "<=" if better == "lower" else ">="
    threshold = 1 + share if better == "lower" else 1 - share
    if not (np.all(figure > 0) and np.all(best > 0)):
        return Judged("inconclusive", "a ratio needs figures above zero, and one of these is not")
    points = [around(a / b, log=True) for a, b in zip(figure, best, strict=True)]
    return _worst_point(points, figure.shape[1], comparator, threshold, neutral=None)


def around(repeats: np.ndarray, *, log: bool = False) -> tuple[float, Interval]:
    """The mean over repeats (``log``: geometric) and its interval."""
    values = np.log(repeats) if log else np.asarray(repeats, np.float64)
    value = float(values.mean())
    low, high = interval(value, NO_DRAWS, values)
    return (float(np.exp(value)), (float(np.exp(low)), float(np.exp(high)))) if log else (value, (low, high))


def _worst_point(
    points: Sequence[tuple[float, Interval]],
    repeats: int,
    comparator: Comparator,
    threshold: float,
    neutral: float | None,
) -> Judged:
    judged = [(_outcome(repeats, ends, comparator, threshold, neutral), value, ends) for value, ends in points]
    outcome, value, ends = min(judged, key=lambda one: WORST_FIRST.index(one[0]))
    return Judged(
        outcome, f"{value:.4g} ({ends[0]:.4g} to {ends[1]:.4g}), {comparator} {threshold:g} is claimed", value, ends
    )


def _outcome(
    repeats: int, ends: Interval, comparator: Comparator, threshold: float, neutral: float | None = None
) -> Outcome:
    low, high = ends
    if repeats < 2 or not (np.isfinite(low) and np.isfinite(high)):
        return "inconclusive"
    more = comparator == ">="
    if low >= threshold if more else high <= threshold:
        return "reproduced"
    if not (high < threshold if more else low > threshold):
        return "inconclusive"
    if neutral is not None and (low > neutral if more else high < neutral):
        return "direction only"
    return "not reproduced"


def _ordered(steps: Sequence[Interval], names: Sequence[str], whole: Interval, repeats: int, claimed: str) -> Judged:
    """Every step must surely go up; ``whole``: from the first to the last."""
    wrong = [name for name, (_, high) in zip(names, steps, strict=True) if high <= 0]
    unsure = [name for name, (low, high) in zip(names, steps, strict=True) if low <= 0 < high]
    if repeats < 2 or not np.all(np.isfinite([*steps, whole])):
        return Judged("inconclusive", f"{claimed}: one repeat, or a figure without a value, decides nothing")
    if not wrong and not unsure:
        return Judged("reproduced", f"{claimed} at every step")
    if wrong and not whole[0] > 0:
        return Judged("not reproduced", f"{claimed}: not {_listed(wrong)}")
    if whole[0] > 0:
        return Judged("direction only", f"{claimed} from first to last, but not surely {_listed(wrong + unsure)}")
    return Judged("inconclusive", f"{claimed}: not sure of {_listed(unsure)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"
