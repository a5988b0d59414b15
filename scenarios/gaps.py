"""Times between neighbouring arrivals."""

from __future__ import annotations

from collections.abc import Sequence


def filling(span: float, gaps: Sequence[float]) -> list[float]:
    """The gaps, all stretched alike until they fill ``span``; of no length at all, they share it out evenly."""
    drawn = sum(gaps)
    return [gap * span / drawn for gap in gaps] if drawn > 0 else [span / len(gaps) for _ in gaps]
