"""How a prediction fared against what was measured: pure functions of numbers.

A figure is an array ``[points, repeats]`` as in ``store.predicates``, whose intervals decide here, too. A prediction is *right* where
the interval allows it, has the *direction* where it lies on the measured side of no effect, and is *wrong* otherwise. A figure
without a value leaves it *open*. So does an interval that allows it because it allows nearly anything.

Whether the step's effect showed is decided apart from the prediction: its interval lies wholly beyond the value of no effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from store.predicates import Interval, around

Score = Literal["right", "direction", "wrong", "open"]


@dataclass(frozen=True)
class Scored:
    """A prediction's score, the count of its parts that were right of how many (1 of 1 where it has one), and the places
    of the others: points of a curve, pairs of an order as ``itertools.combinations`` gives them.
    """

    score: Score
    right: int
    parts: int
    missed: tuple[int, ...] = ()


OPEN = Scored("open", 0, 1)
WIDEST = 4.0  # an interval whose ends lie such a factor apart decides nothing


def number(predicted: float, repeats: np.ndarray, *, close: float, neutral: float | None, log: bool = False) -> Scored:
    """A number against a figure's ``repeats``; right within the interval, widened by ``close``, a share of its ends."""
    ends = around(repeats, log=log)[1]
    if not _known(repeats):
        return OPEN
    if _within(predicted, ends, close):
        return _one("right") if _narrow(repeats) else OPEN
    return _one("direction" if _same_side((predicted, predicted), ends, neutral) else "wrong")


def choice(
    low: float | None, high: float | None, repeats: np.ndarray, *, neutral: float | None, log: bool = False
) -> Scored:
    """An answer that stands for values from ``low`` to ``high``; right where the interval reaches into them."""
    ends = around(repeats, log=log)[1]
    if not _known(repeats):
        return OPEN
    span = (-np.inf if low is None else low, np.inf if high is None else high)
    if span[0] <= ends[1] and ends[0] <= span[1]:
        return _one("right") if _narrow(repeats) else OPEN
    return _one("direction" if _same_side(span, ends, neutral) else "wrong")


def ordering(order: Sequence[str], figures: Mapping[str, np.ndarray]) -> Scored:
    """Figures by name, the smallest first; right where no pair is surely the other way round.

    It has the direction where the first is surely below the last. Pairs count as parts.
    """
    pairs = list(itertools.combinations(order, 2))
    steps = {(a, b): around(figures[b] - figures[a])[1] for a, b in pairs}
    if not all(_known(figures[name]) for name in order):
        return OPEN
    missed = tuple(place for place, (_, high) in enumerate(steps.values()) if high < 0)
    if not missed:
        told = all(_narrow(figures[name]) for name in order)
        return Scored("right", len(pairs), len(pairs)) if told else OPEN
    above = steps[order[0], order[-1]][0] > 0
    return Scored("direction" if above else "wrong", len(pairs) - len(missed), len(pairs), missed)


def curve(predicted: Sequence[float], figure: np.ndarray, *, close: float) -> Scored:
    """A number at each point; right where all lie within their intervals, widened by ``close``.

    It has the direction where it rises, or falls, from the first point to the last as the figure surely does.
    """
    ends = [around(row)[1] for row in figure]
    whole = around(figure[-1] - figure[0])[1]
    if not _known(figure):
        return OPEN
    pairs = zip(predicted, ends, strict=True)
    missed = tuple(place for place, (value, pair) in enumerate(pairs) if not _within(value, pair, close))
    if not missed:
        return Scored("right", len(ends), len(ends)) if all(map(_narrow, figure)) else OPEN
    change = predicted[-1] - predicted[0]
    same = _same_side((change, change), whole, 0.0)
    return Scored("direction" if same else "wrong", len(ends) - len(missed), len(ends), missed)


def shows(repeats: np.ndarray, *, beyond: float, goes: Literal["up", "down"], log: bool = False) -> bool:
    """Whether an effect showed: the whole interval lies above, or below, the value of no effect."""
    low, high = around(repeats, log=log)[1]
    return bool(_known(repeats) and (low > beyond if goes == "up" else high < beyond))


def _known(figure: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(figure)))


def _narrow(repeats: np.ndarray) -> bool:
    """Whether the interval is narrow enough for something within it to be right for a reason."""
    if not np.all(repeats > 0):
        return True  # counts and differences: what they scatter has no scale
    low, high = around(repeats, log=True)[1]
    return bool(high <= WIDEST * low)


def _one(score: Score) -> Scored:
    return Scored(score, int(score == "right"), 1)


def _within(value: float, ends: Interval, close: float) -> bool:
    low, high = ends
    return bool(low - close * abs(low) <= value <= high + close * abs(high))


def _same_side(predicted: Interval, measured: Interval, neutral: float | None) -> bool:
    """Whether both lie wholly above ``neutral``, or both below it; an answer may touch it."""
    if neutral is None:
        return False
    above = predicted[0] >= neutral and predicted[1] > neutral and measured[0] > neutral
    below = predicted[1] <= neutral and predicted[0] < neutral and measured[1] < neutral
    return bool(above or below)
