"""How fast prompts are computed, by what was measured of the last steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median

LAST = 5  # measurements whose median is a rate: one that was held up decides nothing


class ComputeRate:
    """FLOPs per second over the last steps with prompt tokens, and what prompts take at it."""

    def __init__(self, flops: Callable[[int, int], float]) -> None:
        """``flops``: of computing so many tokens after so many others."""
        self._flops = flops
        self._flops_per_s: deque[float] = deque(maxlen=LAST)
        self._most_flops = 0.0

    def computed(self, flops: float, seconds: float) -> None:
        """A step with prompt tokens took that long. One with less than half the work of the largest says little: it
        reads the weights for few tokens."""
        self._most_flops = max(self._most_flops, flops)
        if seconds > 0 and flops >= self._most_flops / 2:
            self._flops_per_s.append(flops / seconds)

    def compute_s(self, tokens: int, context: int) -> float | None:
        """Seconds to compute so many tokens after ``context`` others; None while no rate is known."""
        if not self._flops_per_s:
            return None
        return self._flops(tokens, context) / median(self._flops_per_s)
