"""Service-level objectives: the share of requests that met them, goodput, and capacity by bisection.

Attainment counts *all submitted* requests: one that failed, was dropped or never got a token has missed. (Dropping
hopeless requests must not raise the figure; "Revisiting SLO and goodput metrics", 2024.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

GOODPUT_ATTAINMENT = 0.9
STRICT_ATTAINMENT = 0.99
STRICT_FACTOR, RELAXED_FACTOR = 5.0, 25.0


@dataclass(frozen=True)
class Slo:
    """A request meets it with a first token within ``ttft_ms`` and a mean time per token within ``tpot_ms``."""

    name: str
    ttft_ms: float
    tpot_ms: float
    source: str = ""

    def scaled(self, factor: float) -> Slo:
        """Both bounds multiplied (the SLO scale of DistServe's plots)."""
        return Slo(f"{self.name} x{factor:g}", self.ttft_ms * factor, self.tpot_ms * factor, self.source)


_DISTSERVE = "DistServe (2024), plotting notebook"
PRESETS: dict[str, Slo] = {
    slo.name: slo
    for slo in (
        Slo("chat-13b", 250, 100, _DISTSERVE),
        Slo("chat-66b", 2500, 150, _DISTSERVE),
        Slo("chat-175b", 4000, 200, _DISTSERVE),
        Slo("code-66b", 125, 200, _DISTSERVE),
        Slo("summarize-66b", 15_000, 150, _DISTSERVE),
    )
}


def relative(unloaded_ttft_ms: float, unloaded_tpot_ms: float, factor: float = STRICT_FACTOR) -> Slo:
    """For any model on any machine: so many times what a request alone would see (5: strict, 25: relaxed)."""
    return Slo(f"{factor:g} x unloaded", factor * unloaded_ttft_ms, factor * unloaded_tpot_ms, "Sarathi-Serve (2024)")


def attainment(ttft_ms: np.ndarray, tpot_ms: np.ndarray, submitted: int, slo: Slo) -> float | None:
    """Share of ``submitted`` requests that met the objective; None of no requests.

    ``ttft_ms``, ``tpot_ms``: by request, NaN where there is none. A request that got its one token has no TPOT and
    meets that bound.
    """
    if submitted <= 0:
        return None
    in_time = (ttft_ms <= slo.ttft_ms) & ((tpot_ms <= slo.tpot_ms) | np.isnan(tpot_ms))
    return float(np.sum(in_time)) / submitted


def goodput(rates: Sequence[float], attained: Sequence[float], share: float = GOODPUT_ATTAINMENT) -> float | None:
    """Highest rate measured with at least ``share`` of the requests in time at it and at every lower rate; None if none.

    Rates in requests/s per device (DistServe).
    """
    best = None
    for rate, reached in sorted(zip(rates, attained, strict=True)):
        if reached < share:
            break
        best = rate
    return best


def capacity(holds: Callable[[float], bool], low: float, high: float, *, tolerance: float = 0.05) -> float | None:
    """Highest rate at which ``holds(rate)``, found by bisection between ``low`` and ``high`` to a share ``tolerance``.

    ``holds`` measures (Sarathi-Serve's: median scheduling delay within 2 s and p99 of inter-token latency within a bound).
    None where even ``low`` fails; ``high`` where that holds.

    Raises:
        ValueError: not ``0 < low < high``.
    """
    if not 0 < low < high:
        raise ValueError(f"capacity is looked for between 0 < low < high, not {low} and {high}")
    if not holds(low):
        return None
    if holds(high):
        return high
    while high - low > tolerance * low:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
