"""The contract of a tier codec: a block's bytes as a stream for the disk tier, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class BlockForm:
    """What the bytes of a block are at full precision: numbers [layers, 2, kv_heads, block_size, head_dim], 2 is key
    and value."""

    layers: int
    kv_heads: int
    block_size: int
    head_dim: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.layers, 2, self.kv_heads, self.block_size, self.head_dim)

    def numbers(self, content: np.ndarray) -> np.ndarray:
        """Bytes [bytes] uint8 as numbers in float32, in the shape above."""
        return torch.from_numpy(content).view(self.dtype).float().numpy().reshape(self.shape)

    def fill(self, into: np.ndarray, x: np.ndarray) -> None:
        """Write numbers to bytes [bytes] uint8, rounded to the cache's dtype and kept within its range."""
        limit = torch.finfo(self.dtype).max
        kept = np.clip(x, -limit, limit).ravel()
        if self.dtype == torch.float32:  # without a team of threads
            into.view(np.float32)[:] = kept
        else:
            torch.from_numpy(into).view(self.dtype).copy_(torch.from_numpy(kept))


class TierCodec(ABC):
    """Makes a block smaller for the disk tier. One object serves one run: streams are read by who wrote them."""

    @abstractmethod
    def encode(self, content: np.ndarray) -> np.ndarray:
        """A block's bytes [bytes] uint8 as a stream [its length] uint8."""

    def parts(self, stream: np.ndarray) -> Sequence[tuple[int, int]]:
        """Where each level lies in what ``encode`` returned, finest first: first byte, and bytes."""
        return [(0, stream.nbytes)]

    @abstractmethod
    def decode(self, stream: np.ndarray, into: np.ndarray, level: int = 0) -> None:
        """Fill ``into`` [bytes] uint8 with what ``encode`` made of a block at a level. Streams are held against their
        checksums before."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Of all blocks encoded: their number, bytes before and after, and what was lost by layer."""
