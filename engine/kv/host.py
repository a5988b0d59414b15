"""Host memory behind the KV pool: blocks that were swapped out, and copies that are kept.

    pool on the device   [A A A . B B . . A C C .]      block table of A  [0 1 2 8]
    host pool            [a a a a . . b b . . . .]      its copy          [0 1 2 3]     a: the same keys and values

A request's copy stays valid for whole blocks that were copied, since what is computed never changes; the next swap
sends what came after them. Copies of requests that hold their blocks on the device are only kept, and give way, least
recently used first, when others need the room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from engine.block_table import blocks_for
from engine.config.errors import EngineError, IntegrityError
from engine.kv.free_blocks import LargestRun


@dataclass
class HostCopy:
    """What host memory holds of one request."""

    table: list[int] = field(default_factory=list)  # host blocks, by place in the request's block table
    valid: int = 0  # tokens, from the first on, whose copy need not be sent again
    complete: int = -1  # tokens that were swapped out last, if all that belongs to them is still here
    given: bool = False  # left by the turn before; its request has not begun
    tokens: int = 0  # swapped out and waiting to come back; 0 while the request holds its blocks on the device
    tail: int | None = None  # place of its exact tail on the host


class HostPool:
    """Blocks and exact tails in host memory, and who has them. Page-locked where the device is a GPU."""

    def __init__(
        self, num_blocks: int, block_size: int, tails: int, stores: Sequence[torch.Tensor], tail_stores: Sequence
    ) -> None:
        """
        Args:
            tails: exact tails, of a codec that has them.
            stores: of the cache (``KVCache.stores``), [stripes, blocks, bytes] uint8.
            tail_stores: of its tails (``KVCache.tail_stores``), likewise.

        Raises:
            EngineError: the host cannot give this memory.
        """
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.nbytes = sum(len(s) * num_blocks * s.shape[2] for s in stores)
        self.nbytes += sum(len(s) * tails * s.shape[2] for s in tail_stores)
        try:
            self.stores = [_mirror(s, num_blocks) for s in stores]
            self.tail_stores = [_mirror(s, tails) for s in tail_stores]
        except (RuntimeError, MemoryError) as error:
            raise EngineError(
                "out-of-memory",
                "preemption.host_mib",
                round(self.nbytes / 2**20),
                f"the host cannot give {self.nbytes / 2**20:,.0f} MiB for blocks that are swapped out.",
                "Set it lower.",
            ) from error
        self._free = LargestRun(num_blocks)
        self._tails = list(range(tails))[::-1]
        self._num_tails = tails
        self._copies: OrderedDict[int, HostCopy] = OrderedDict()  # request -> its copy, least recently used first

    @property
    def num_free(self) -> int:
        """Blocks that hold nobody's copy."""
        return len(self._free)

    @property
    def has_tails(self) -> bool:
        return bool(self.tail_stores)

    def copy_of(self, request: int) -> HostCopy | None:
        return self._copies.get(request)

    def extend(
        self, request: int, blocks: int, *, most: int = 0, tail: bool = False, pinned: frozenset[int] = frozenset()
    ) -> bool:
        """Make a request's copy ``blocks`` long or longer, with a place for its exact tail where that is asked for;
        False, and nothing has changed of it, where host memory has no room.

        ``most``: blocks it may grow to; a new copy gets them at once, together, while half of the pool is free.
        ``pinned``: requests whose kept copies must not give way.
        """
        copy = self._copies.setdefault(request, HostCopy())
        self._copies.move_to_end(request)
        needs_tail = tail and self.has_tails and copy.tail is None
        missing = max(0, blocks - len(copy.table))
        while missing > len(self._free) or (needs_tail and not self._tails):
            if not self._give_way(pinned | {request}):
                if not copy.table:
                    self.drop(request)
                return False
        if missing and not copy.table and len(self._free) - max(most, missing) >= self.num_blocks // 2:
            missing = max(most, missing)
        if missing:
            copy.table += self._free.take(missing, copy.table[-1] if copy.table else -1)
        if needs_tail:
            copy.tail = self._tails.pop()
        return True

    def drop(self, request: int) -> None:
        """Forget a request's copy."""
        copy = self._copies.pop(request, None)
        if copy is None:
            return
        for block in copy.table:
            self._free.add(block)
        self.drop_tail(copy)

    def drop_tail(self, copy: HostCopy) -> None:
        if copy.tail is not None:
            self._tails.append(copy.tail)
            copy.tail = None

    def hand_on(self, request: int, follower: int) -> None:
        """A request's kept copy becomes that of the request that goes on where it ended."""
        copy = self._copies.pop(request)
        self._copies[follower] = copy

    def _give_way(self, pinned: frozenset[int]) -> bool:
        """Drop the least recently used copy that is only kept."""
        kept = (r for r, copy in self._copies.items() if not copy.tokens and r not in pinned)
        request = next(kept, None)
        if request is None:
            return False
        self.drop(request)
        return True

    def check_integrity(self) -> None:
        """Every block is free or in one copy, and copies are long enough. Raises ``IntegrityError``."""
        held = [block for copy in self._copies.values() for block in copy.table]
        free = [block for first, length in self._free.runs for block in range(first, first + length)]
        if sorted(held + free) != list(range(self.num_blocks)):
            raise IntegrityError(f"host blocks held {sorted(held)} and free {free} are not the {self.num_blocks}")
        tails = [copy.tail for copy in self._copies.values() if copy.tail is not None]
        if sorted(tails + self._tails) != list(range(self._num_tails)):
            raise IntegrityError(f"host tails held {tails} and free {self._tails} are not the {self._num_tails}")
        for request, copy in self._copies.items():
            if blocks_for(max(copy.valid, copy.tokens), self.block_size) > len(copy.table):
                raise IntegrityError(f"request {request} has {len(copy.table)} host blocks for {copy}")


def _mirror(store: torch.Tensor, blocks: int) -> torch.Tensor:
    """A store of as many stripes for this many blocks, written to once."""
    pinned = store.device.type == "cuda"
    mirror = torch.empty((len(store), blocks, store.shape[2]), dtype=torch.uint8, pin_memory=pinned)
    return mirror.zero_()
