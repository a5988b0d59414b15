"""How a room answered: the same answers counted, numbers in bins, orders by how many gave them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from app.lessons.predicted import Predicted, in_words
from app.words.text import number
from scenarios.lessons.lesson import Choice, Number, Step

BINS = 10
MOST_ORDERS = 6
OTHERS = "other orders"
Bars = list[tuple[str, int]]
"""What was said and by how many, in the order of an axis."""


def bars_of(step: Step, values: Sequence[Predicted]) -> Bars:
    """The bars of a choice, a number or an order; empty for a curve, which is drawn as curves."""
    asked = step.predict
    if isinstance(asked, Choice):
        said = Counter(int(value) for value in values if isinstance(value, int | float))
        return [(option.says.rstrip("."), said[n]) for n, option in enumerate(asked.options)]
    if isinstance(asked, Number):
        width = (asked.high - asked.low) / BINS
        found = Counter(
            min(BINS - 1, max(0, int((value - asked.low) / width)))
            for value in values
            if isinstance(value, int | float)
        )
        ends = [asked.low + n * width for n in range(BINS + 1)]
        return [(f"{number(ends[n])} to {number(ends[n + 1])}", found[n]) for n in range(BINS)]
    if values and isinstance(values[0], tuple) and all(isinstance(one, str) for one in values[0]):
        orders = Counter(in_words(step, value) for value in values).most_common()
        rest = sum(count for _, count in orders[MOST_ORDERS:])
        return orders[:MOST_ORDERS] + ([(OTHERS, rest)] if rest else [])
    return []


def curves_of(values: Sequence[Predicted]) -> list[tuple[float, ...]]:
    """The curves among what was predicted."""
    return [
        tuple(float(one) for one in value)
        for value in values
        if isinstance(value, tuple) and not any(isinstance(one, str) for one in value)
    ]
