"""The share of requests in time at each rate that a search tried, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.experiments.rate_search import STOPPED_EARLY
from store.plan import Turn
from store.predicates import around

Z = 1.959964  # of a normal distribution: 95 % lie so many deviations around its middle


def rate_points(tried: Sequence[Turn]) -> list[dict[str, Any]]:
    """Each rate once, the lowest first: ``requests_per_s``, ``attainment`` (mean over repeats), ``interval`` (95 %;
    None where the requests were not served to the end, or not counted), ``runs``.
    """
    by_rate: dict[float, list[Turn]] = {}
    for turn in tried:
        if turn.rate is not None and turn.figures.get("attainment") is not None:
            by_rate.setdefault(turn.rate, []).append(turn)
    return [
        {
            "requests_per_s": rate,
            "attainment": float(np.mean([_attainment(turn) for turn in turns])),
            "interval": _interval(turns),
            "runs": [turn.run_id for turn in turns],
        }
        for rate, turns in sorted(by_rate.items())
    ]


def _interval(turns: Sequence[Turn]) -> tuple[float, float] | None:
    """Of repeats by how they differ (Student's t), of one run by its number of requests (Wilson)."""
    if any(turn.figures.get(STOPPED_EARLY) for turn in turns):
        return None
    if len(turns) > 1:
        _, (low, high) = around(np.array([_attainment(turn) for turn in turns]))
        return max(0.0, low), min(1.0, high)
    requests = turns[0].figures.get("requests")
    return None if not requests else wilson(_attainment(turns[0]), requests)


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of ``count`` independent cases."""
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * float(np.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _attainment(turn: Turn) -> float:
    return float(turn.figures["attainment"] or 0.0)
