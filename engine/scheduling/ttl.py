"""How long an ended turn's blocks are worth keeping while its tool works: a time to live (Continuum, 2025)."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean
from typing import ClassVar, NamedTuple

from engine.config import TimeToLive
from engine.kv.compute_rate import ComputeRate

COLD = 5  # durations of a tool, below which an exponential distribution stands in for them
SAMPLED = 8  # durations that stand for that distribution
LAST_DURATIONS = 64  # of a tool, that are remembered
LAST_WAITS = 16


class Worth(NamedTuple):
    """A time to live, and what it was chosen by; NaN where it was not."""

    ttl_s: float
    chance: float = math.nan  # that the tool is back in time
    recompute_s: float = math.nan  # predicted, of the tokens that the blocks hold
    wait_s: float = math.nan  # that a turn without its blocks waits in the queue
    cost_s: float = math.nan  # of holding the memory


class PinTime:
    """Contract of a mode: how long the blocks of an ended turn are pinned. Named by ``TimeToLive.mode``. This one pins
    nothing, and keeps what there is room for."""

    mode: ClassVar[str] = "lru"
    evicts = False  # blocks of whatever ends, that nobody else holds, are given up at once

    def __init__(self, asked: TimeToLive, rate: ComputeRate) -> None:
        self.asked = asked
        self.rate = rate

    def observe(self, tool: str, duration_s: float) -> None:
        """A tool gave its answer, and the next turn came."""

    def waited(self, seconds: float) -> None:
        """A turn whose blocks had no pin waited so long for its place."""

    def choose(self, tool: str, tokens: int, share: float) -> Worth:
        """The time to live of a turn's blocks; 0: they are not pinned.

        Args:
            tool: whose answer the next turn waits for.
            tokens: that the blocks hold.
            share: of the pool, that would not be pinned or held without this pin.
        """
        return Worth(0.0)


class EndOfTurn(PinTime):
    """The baseline of the paper: at the end of each turn its blocks are given up."""

    mode = "evict"
    evicts = True


class FixedTime(PinTime):
    """The same time for every turn."""

    mode = "fixed"

    def choose(self, tool: str, tokens: int, share: float) -> Worth:
        return Worth(self.asked.ttl_s)


class AdaptiveTime(PinTime):
    """The time to live whose expected benefit exceeds its cost by most, in seconds:

        gain(ttl) = P(D <= ttl) * (recompute + wait) - share * E[min(D, ttl)]

    D is the tool's duration, by its last ones; ``recompute`` what computing the blocks' tokens takes at the rate of
    the last steps, and ``wait`` what turns that had no pin waited for a place. The memory is held until the tool is
    back or the time is over, and while a share of the pool is held, others get on slower by as much. Only durations
    that were seen can be best, since the cost grows between them and the benefit does not. Benefit, cost and the
    exponential distribution of a tool that is not known yet are the paper's; the cost's unit is ours.
    """

    mode = "adaptive"

    def __init__(self, asked: TimeToLive, rate: ComputeRate) -> None:
        super().__init__(asked, rate)
        self._seen: dict[str, deque[float]] = {}
        self._waits: deque[float] = deque(maxlen=LAST_WAITS)

    def observe(self, tool: str, duration_s: float) -> None:
        self._seen.setdefault(tool, deque(maxlen=LAST_DURATIONS)).append(duration_s)

    def waited(self, seconds: float) -> None:
        self._waits.append(seconds)

    def durations(self, tool: str) -> list[float]:
        """The tool's last durations, ascending; equally likely ones of an exponential distribution of their mean where
        they are too few."""
        seen = self._seen.get(tool, ())
        if len(seen) >= COLD:
            return sorted(seen)
        mean = fmean(seen) if seen else self.asked.prior_s
        return [-mean * math.log(1 - (n + 0.5) / SAMPLED) for n in range(SAMPLED)]

    def choose(self, tool: str, tokens: int, share: float) -> Worth:
        recompute_s = self.rate.compute_s(tokens, 0) or 0.0
        wait_s = fmean(self._waits) if self._waits else 0.0
        durations = self.durations(tool)
        best, most, sooner_s = Worth(0.0, 0.0, recompute_s, wait_s, 0.0), 0.0, 0.0
        for count, ttl_s in enumerate(durations, 1):
            sooner_s += ttl_s
            chance = count / (len(durations) + 1)  # of the next one, among those seen
            cost_s = share * (sooner_s + (len(durations) - count) * ttl_s) / len(durations)
            gain = chance * (recompute_s + wait_s) - cost_s
            if gain > most:
                best, most = Worth(ttl_s, chance, recompute_s, wait_s, cost_s), gain
        return best


TTLS: dict[str, type[PinTime]] = {kind.mode: kind for kind in (AdaptiveTime, FixedTime, EndOfTurn, PinTime)}
"""The registry, in the order the settings list them."""
