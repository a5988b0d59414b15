"""Which level of a block is read from disk, or that it is computed again: by the time that is left (CacheGen, 2023).

For each block in turn, at the rate of the last one: ``t(level) = blocks left x (bytes(level) / rate + decoding)``,
and what is left of the prompt is computed after that. The finest level is taken whose time meets the bound. Where none
does, the rest is computed again (*text*: it loses nothing) if that takes less time than the coarsest level, else that
level is read. Text brings nothing over the link, so its rate would never be known again: where the last block is longer
ago than the bound, one is read at the coarsest level first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

TEXT = "text"


@dataclass(frozen=True)
class Due:
    """What a load is to be over for."""

    at_ns: int  # when the first token should be there, on the run's clock
    rest_s: float  # to compute what is not loaded, as predicted; 0 while no rate is known
    again_s: tuple[float, ...] = ()  # to compute from each block that is loaded on, likewise; empty while not known


class Chosen(NamedTuple):
    """How a block is read."""

    level: str
    bytes_per_s: float  # of the last block; 0: none was read yet
    left_s: float  # until the bound


class LevelChoice:
    """Remembers what the last block took."""

    def __init__(self, names: Sequence[str], ttft_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            names: of the levels, finest first.
            ttft_s: the bound.
            clock: s.
        """
        self.names = tuple(names)
        self.ttft_s = ttft_s
        self._clock = clock
        self._came_s = 0.0  # when the last block came
        self._bytes_per_s = 0.0
        self._decode_s = [0.0] * len(self.names)

    def came(self, level: int, nbytes: int, seconds: float, decode_s: float) -> None:
        """A block came over the link, and was decoded."""
        if seconds > 0:
            self._bytes_per_s, self._came_s = nbytes / seconds, self._clock()
        self._decode_s = [known or decode_s for known in self._decode_s]
        self._decode_s[level] = decode_s

    def choose(self, sizes: Sequence[int], place: int, blocks: int, left_s: float, due: Due) -> Chosen:
        """
        Args:
            sizes: bytes of the block at each level.
            place: of the block in its load.
            blocks: that are left of it, this one included.
            left_s: until the bound.
        """
        rate = self._bytes_per_s
        if not rate:
            return Chosen(self.names[0], 0.0, left_s)
        times = [blocks * (size / rate + decode) for size, decode in zip(sizes, self._decode_s, strict=True)]
        for name, seconds in zip(self.names, times, strict=True):
            if seconds + due.rest_s <= left_s:
                return Chosen(name, rate, left_s)
        lately = self._clock() - self._came_s <= self.ttft_s
        if lately and due.again_s and due.again_s[place] < times[-1] + due.rest_s:
            return Chosen(TEXT, rate, left_s)
        return Chosen(self.names[-1], rate, left_s)
