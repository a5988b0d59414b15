"""Whole numbers as a bitstream, by a range coder with the statistics of each channel (CacheGen, 2023).

The coder is that of ``constriction``. Small numbers are frequent, and how small differs by channel. A channel's mean
size, ``m = E|n|``, decides its law, the two-sided geometric one: ``p(n) ~ t^|n|`` with ``t = (sqrt(1 + m^2) - 1) / m``.
Channels of about the same mean share a law, so that few tables serve thousands of channels.

Statistics are of the blocks that were encoded so far, and are taken anew after 1, 2, 4, 8, ... of them. A stream says
which it was written with; all stay in memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from engine.config.errors import EngineError

LIMIT = 255  # the largest number that can be coded
LEAST, RATIO, LAWS = 0.01, 1.25, 46  # mean sizes that laws stand for: 0.01, 0.0125, ... 230
TAKEN_ANEW = 2**10  # blocks after which statistics stay


def coders() -> Any:
    """The library's modules.

    Raises:
        EngineError: it is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise EngineError(
            "not-installed",
            "kv_tiers.codec",
            None,
            "its range coder is in the package constriction, which is not installed; this machine may have none.",
            "Install constriction, or set kv_tiers.codec to none.",
        ) from error
    return constriction.stream


@cache
def law(number: int) -> Any:
    """The probabilities of -LIMIT ... LIMIT in the channels that ``laws_of`` gives this number."""
    mean = LEAST * RATIO**number
    base = ((1 + mean * mean) ** 0.5 - 1) / mean
    weights = base ** np.abs(np.arange(-LIMIT, LIMIT + 1, dtype=np.float64)) + 1e-9
    return coders().model.Categorical((weights / weights.sum()).astype(np.float32), perfect=False)


def laws_of(means: np.ndarray) -> np.ndarray:
    """The number of the law for each mean size, uint8."""
    places = np.log(np.maximum(means, LEAST) / LEAST) / np.log(RATIO)
    return np.clip(np.rint(places), 0, LAWS - 1).astype(np.uint8)


class SymbolCoder:
    """Encodes numbers, each of a channel, and decodes them again; learns how large each channel's are."""

    def __init__(self, channels: int) -> None:
        """
        Raises:
            EngineError: the coder's library is not installed.
        """
        self._stream = coders()
        self._sums = np.zeros(channels)
        self._counts = np.zeros(channels)
        self._blocks = 0
        self._tables: list[np.ndarray] = []  # each [channels] uint8

    def encode(self, numbers: np.ndarray, channels: np.ndarray) -> np.ndarray:
        """
        Args:
            numbers: [n] int32 within +-LIMIT.
            channels: [n] whole numbers, the channel of each.

        Returns:
            [bytes] uint8.
        """
        self._learn(numbers, channels)
        order, counts = self._in_order(channels, self._tables[-1])
        ordered = (numbers + LIMIT).astype(np.int32)[order]
        encoder, first = self._stream.queue.RangeEncoder(), 0
        for number, count in enumerate(counts):
            if count:
                encoder.encode(ordered[first : first + count], law(number))
                first += count
        head = np.array([len(self._tables) - 1], np.uint32)
        return np.concatenate([head, encoder.get_compressed()]).view(np.uint8)

    def decode(self, stream: np.ndarray, channels: np.ndarray) -> np.ndarray:
        """``stream``: of ``encode``. Returns the numbers [n] int32."""
        words = np.frombuffer(stream.tobytes(), np.uint32)
        order, counts = self._in_order(channels, self._tables[int(words[0])])
        decoder = self._stream.queue.RangeDecoder(words[1:])
        parts = [decoder.decode(law(number), int(count)) for number, count in enumerate(counts) if count]
        numbers = np.empty(len(channels), np.int32)
        numbers[order] = np.concatenate(parts) - LIMIT
        return numbers

    def _learn(self, numbers: np.ndarray, channels: np.ndarray) -> None:
        """Take a block into the statistics; its own stream is written with those that know it."""
        if self._blocks >= TAKEN_ANEW:
            return
        self._blocks += 1
        self._sums += np.bincount(channels, np.abs(numbers), len(self._sums))
        self._counts += np.bincount(channels, minlength=len(self._counts))
        if self._blocks & (self._blocks - 1) == 0:
            mean = self._sums.sum() / max(1.0, self._counts.sum())  # of a channel that had no number yet
            means = np.divide(self._sums, self._counts, out=np.full(len(self._sums), mean), where=self._counts > 0)
            self._tables.append(laws_of(means))

    @staticmethod
    def _in_order(channels: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of numbers sorted by law [n], and how many each law has [LAWS]."""
        laws = table[channels]
        return np.argsort(laws, kind="stable"), np.bincount(laws, minlength=LAWS)
