"""Who moves the prefill half's share of the cores, and by what: nobody, latencies that were seen, or modelled ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from engine.config import Placement
from engine.cost import CostModel
from engine.halves.one_pool import Books

LAST_FIRST_TOKENS = 8
LAST_GAPS = 32
SERIAL = 0.05  # part of a step that more cores do not shorten; assumed


@dataclass(frozen=True)
class Load:
    """What there is to do, and how late it was lately."""

    share: int  # cores of the prefill half
    cores: int  # of both
    ttft_ms: float | None = None  # mean of the last first tokens and of those that are waited for
    tpot_ms: float | None = None  # mean of the last gaps between decode steps
    prompts: Sequence[int] = ()  # tokens of those that wait for their first token
    contexts: Sequence[int] = ()  # tokens that each decoding request has behind it


Choose = Callable[[Load], int]
"""The prefill half's cores from now on, 1 to ``cores - 1``."""


def by_bounds(asked: Placement) -> Choose:
    """semi-PD (2025): the phase whose latency is further beyond its bound gets cores of the other, in proportion to
    the error."""

    def choose(load: Load) -> int:
        first = 0.0 if load.ttft_ms is None else load.ttft_ms / asked.ttft_ms - 1
        later = 0.0 if load.tpot_ms is None else load.tpot_ms / asked.tpot_ms - 1
        if max(first, later) <= 0:
            return load.share
        moved = max(1, round(asked.gain * max(first, later)))
        return _within(load, load.share + (moved if first > later else -moved))

    return choose


def by_cost(asked: Placement, slowdown: Callable[[Load, int], float]) -> Choose:
    """Nexus (2025): go core by core to the split with the least modelled slowdown, and stay where that gains too
    little. ``slowdown``: of a load at a share."""

    def choose(load: Load) -> int:
        best = load.share
        while True:
            near = min((_within(load, best - 1), _within(load, best + 1)), key=lambda share: slowdown(load, share))
            if slowdown(load, near) >= slowdown(load, best):
                break
            best = near
        gains = slowdown(load, best) < (1 - asked.hysteresis) * slowdown(load, load.share)
        return best if gains else load.share

    return choose


@dataclass(frozen=True)
class Slowdown:
    """Modelled time of both phases at a share, each as a multiple of what it takes alone on all cores, summed.

        T(c) = max(FLOPs / (rate of a core * c / (1 + serial * (c - 1))), bytes / bandwidth)

    Prefill is what its prompts take, decode one step. Memory bandwidth grows with cores up to half of them, and decode
    has of it what prefill leaves.
    """

    cost: CostModel
    flops_per_s: float  # of one core
    bytes_per_s: float  # of all
    chunk: int  # prompt tokens for which weights are read once

    def __call__(self, load: Load, share: int) -> float:
        told = 0.0
        drawn = 0.0
        if load.prompts:
            alone, taken = self._prefill(load, load.cores), self._prefill(load, share)
            told += taken / alone
            drawn = self._prefill_bytes(load) / taken
        if load.contexts:
            told += self._decode(load, load.cores - share, drawn) / self._decode(load, load.cores, 0.0)
        return told

    def _prefill(self, load: Load, cores: int) -> float:
        flops = sum(self.cost.prefill_flops(tokens, 0) for tokens in load.prompts)
        return self._seconds(flops, self._prefill_bytes(load), cores, load.cores, 0.0)

    def _prefill_bytes(self, load: Load) -> float:
        return self.cost.weight_bytes * max(1.0, sum(load.prompts) / self.chunk)

    def _decode(self, load: Load, cores: int, drawn: float) -> float:
        rows, pairs = len(load.contexts), sum(load.contexts)
        parameters = self.cost.body_parameters + self.cost.head_parameters
        flops = 2.0 * parameters * rows + self.cost.pair_flops * pairs
        moved = self.cost.weight_bytes + self.cost.kv_bytes_per_token * pairs
        return self._seconds(flops, moved, cores, load.cores, drawn)

    def _seconds(self, flops: float, moved: float, cores: int, total: int, drawn: float) -> float:
        """``drawn``: bytes per second that the other phase draws."""
        rate = self.flops_per_s * cores / (1 + SERIAL * (cores - 1))
        reach = self.bytes_per_s * min(1.0, 2 * cores / total)
        return max(flops / rate, moved / max(reach - drawn, reach / 2))


class Mover:
    """Looks at the load now and then and moves the share. One half has it: the decode half, which hears of both."""

    def __init__(self, books: Books, cores: int, choose: Choose, interval_s: float) -> None:
        self._books = books
        self._cores = cores
        self._choose = choose
        self._interval_ns = int(interval_s * 1e9)
        self._first_tokens: deque[float] = deque(maxlen=LAST_FIRST_TOKENS)
        self._gaps: deque[float] = deque(maxlen=LAST_GAPS)
        self._moved_ns = 0
        self.moves = 0

    def first_token(self, ms: float) -> None:
        """A request got its first token so long after it came."""
        self._first_tokens.append(ms)

    def gap(self, ms: float) -> None:
        """Requests that decode waited so long for their next tokens."""
        self._gaps.append(ms)

    def look(self, now_ns: int, waiting: Sequence[tuple[int, int]], contexts: Sequence[int]) -> None:
        """
        Args:
            waiting: arrival [ns] and prompt [tokens] of requests without a first token.
            contexts: as in ``Load``.
        """
        if now_ns - self._moved_ns < self._interval_ns:
            return
        share = self._books["share"]
        ages = [(now_ns - arrival) / 1e6 for arrival, _ in waiting]
        late = [
            *self._first_tokens,
            *(age for age in ages if not self._first_tokens or age > fmean(self._first_tokens)),
        ]
        load = Load(
            share,
            self._cores,
            fmean(late) if late else None,
            fmean(self._gaps) if self._gaps else None,
            [tokens for _, tokens in waiting],
            contexts,
        )
        chosen = self._choose(load)
        if chosen == share:
            return
        self._books["share"] = chosen
        self._moved_ns = now_ns
        self.moves += 1
        self._first_tokens.clear()  # what was late at another share says nothing of this one
        self._gaps.clear()


def _within(load: Load, share: int) -> int:
    return max(1, min(load.cores - 1, share))
