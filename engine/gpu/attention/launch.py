"""One launch of the attention kernel: a range of the batch's sequences."""

from __future__ import annotations

from dataclasses import dataclass

from engine.gpu.attention.configs import Tile
from engine.gpu.batch import SharedRows


@dataclass(frozen=True, slots=True)
class Launch:
    """Sequences ``[first, first + sequences)`` of the batch, which own the rows from ``first_token``; prefixes some of
    them share."""

    first: int
    sequences: int
    first_token: int
    tokens: int
    singles: bool
    tile: Tile
    tiles: int
    segments: int
    shared: SharedRows | None = None

    @property
    def split(self) -> bool:
        """Whether there is something to merge."""
        return self.segments > 1 or self.shared is not None

    @property
    def parts(self) -> int:
        """Places that its results take before they are merged."""
        if self.shared is not None:
            return self.shared.num_parts
        return self.segments * (self.first_token + self.tokens) if self.split else 0
