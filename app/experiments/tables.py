"""Result tables once: columns and rows; page, HTML, terminal and CSV only render them."""

from __future__ import annotations

from collections.abc import Sequence

from app.words.text import number

OPEN = 1000.0  # an interval whose ends lie such a factor apart says nothing


def with_interval(value: float | None, around: Sequence[float] | None) -> str:
    """``12.3 (11.9 to 12.8)``; an interval wider than any use is called open."""
    if value is None:
        return ""
    if around is None:
        return number(value)
    if around[0] > 0 and around[1] > OPEN * around[0]:
        return f"{number(value)} (open: run more)"
    return f"{number(value)} ({number(around[0])} to {number(around[1])})"
