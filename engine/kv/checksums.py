"""What left the pool and what came back, held against each other byte by byte; for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from engine.config.errors import IntegrityError


class Checksums:
    """Checksums of blocks and exact tails on the device, as they were when they left."""

    def __init__(self, stores: Sequence[torch.Tensor], tail_stores: Sequence[torch.Tensor]) -> None:
        """``stores``, ``tail_stores``: of the cache, [stripes, blocks or tails, bytes] uint8."""
        self._stores = stores
        self._tail_stores = tail_stores
        self._left: dict[int, tuple[list[bytes], bytes | None]] = {}  # request -> of its blocks, of its tail

    def left(self, request: int, first: int, blocks: Sequence[int], tail: int | None) -> None:
        """Keep the checksums of a request's blocks from place ``first`` of its table on, and of its tail.

        Those of the places before stay: they left earlier, and may have been computed again since, with other
        roundings.
        """
        before, _ = self._left.get(request, ([], None))
        there, there_tail = self._of(blocks, tail)
        self._left[request] = [*before[:first], *there], there_tail

    def hand_on(self, request: int, follower: int) -> None:
        """What left of one request comes back for another."""
        self._left[follower] = self._left.pop(request)

    def compare(self, request: int, first: int, blocks: Sequence[int], tail: int | None) -> None:
        """Hold what came back to places ``first``... against what left.

        Raises:
            IntegrityError: naming the places that differ.
        """
        there, there_tail = self._of(blocks, tail)
        left, left_tail = self._left[request]
        pairs = zip(there, left[first : first + len(there)], strict=True)
        wrong = [first + place for place, (a, b) in enumerate(pairs) if a != b]
        if wrong or there_tail != left_tail:
            raise IntegrityError(
                f"request {request}: places {wrong} of its table, or its tail, came back with other bytes"
            )

    def _of(self, blocks: Sequence[int], tail: int | None) -> tuple[list[bytes], bytes | None]:
        tails = None if tail is None else digest([store[:, tail] for store in self._tail_stores])
        return [digest([store[:, block] for store in self._stores]) for block in blocks], tails


def digest(parts: Sequence[torch.Tensor]) -> bytes:
    """Of bytes that belong together, in this order."""
    return hashlib.blake2b(b"".join(x.cpu().numpy().tobytes() for x in parts), digest_size=16).digest()
