"""A block at several levels in one stream, of which one is read: whichever the link leaves time for (CacheGen, 2023).

    stream    lengths, uint32 each | finest level | ... | coarsest level

The levels are encoded on the way out. One stream that is refined step by step would take less room on disk; what is
read over the link is the same, and the time to encode lies beside the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.kv.tier_codecs.base import TierCodec


class LevelledCodec(TierCodec):
    """Every level of a family, finest first."""

    def __init__(self, levels: dict[str, TierCodec]) -> None:
        self.names = tuple(levels)
        self._levels = tuple(levels.values())

    def encode(self, content: np.ndarray) -> np.ndarray:
        streams = [codec.encode(content) for codec in self._levels]
        lengths = np.array([stream.nbytes for stream in streams], np.uint32).view(np.uint8)
        return np.concatenate([lengths, *streams])

    def parts(self, stream: np.ndarray) -> Sequence[tuple[int, int]]:
        lengths = stream[: 4 * len(self._levels)].copy().view(np.uint32).tolist()
        first, cut = 4 * len(self._levels), []
        for length in lengths:
            cut.append((first, length))
            first += length
        return cut

    def decode(self, stream: np.ndarray, into: np.ndarray, level: int = 0) -> None:
        self._levels[level].decode(stream, into)

    def describe(self) -> dict[str, Any]:
        """Of the finest level, with the stored bytes of all."""
        each = [codec.describe() for codec in self._levels]
        return each[0] | {"stored_bytes": sum(one["stored_bytes"] for one in each)}
