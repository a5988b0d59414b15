"""Load blocks or compute them again: whichever is predicted to take less time (CacheGen, 2023)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from engine.kv.compute_rate import LAST, ComputeRate


class TierChoice(ComputeRate):
    """Predicts from what was measured: seconds to load a block of each tier, and the model's FLOPs per second.

    For k of n blocks loaded, ``T(k) = load(first k) + FLOPs(tokens of the others, after those before them) / rate``;
    the k with the least T is taken. While a rate is not known, everything is loaded.
    """

    def __init__(self, flops: Callable[[int, int], float], block_size: int, *, always: bool) -> None:
        """
        Args:
            flops: of computing so many tokens after so many others.
            always: load whatever is found.
        """
        super().__init__(flops)
        self._block_size = block_size
        self._always = always
        self._block_s: dict[str, deque[float]] = {}

    def loaded(self, tier: str, blocks: int, seconds: float) -> None:
        """So many blocks of a tier took that long to load."""
        self._block_s.setdefault(tier, deque(maxlen=LAST)).append(seconds / blocks)

    def recompute_s(self, blocks: int, context: int) -> float | None:
        """Seconds to compute so many blocks after ``context`` tokens; None while no rate is known."""
        return self.compute_s(blocks * self._block_size, context)

    def load_s(self, tier: str, blocks: int) -> float | None:
        """Seconds to load so many blocks of a tier; None while no rate is known."""
        known = self._block_s.get(tier)
        return None if known is None else blocks * median(known)

    def take(self, tiers: Sequence[str], context: int, unit: int = 1) -> int:
        """How many of the blocks found, each in its tier, should be loaded.

        Args:
            context: tokens before the first one.
            unit: blocks that are of use only together.
        """
        each = {tier: self.load_s(tier, 1) for tier in set(tiers)}
        if self._always or self.recompute_s(1, 0) is None or None in each.values():
            return len(tiers)
        best, least, load = 0, float("inf"), 0.0
        for count in range(len(tiers) + 1):
            if count:
                load += each[tiers[count - 1]] or 0.0
            if count % unit:
                continue
            rest = self.recompute_s(len(tiers) - count, context + count * self._block_size) or 0.0
            if load + rest <= least:
                best, least = count, load + rest
        return best
