"""The block pool: who holds which KV block.

    block table of a request     blocks of the pool            reference counts
    [ 3 | 7 | 1 ]  ------------>  0 1 2 3 4 5 6 7               0 1 0 1 0 0 0 1
      16  16  5 tokens            (block_size tokens each)

The pool keeps books only; ``engine.kv.cache`` holds the tensors.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class PoolExhausted(Exception):
    """Fewer blocks are free than were asked for; nothing was allocated."""


class IntegrityError(AssertionError):
    """The pool's books do not balance."""


class BlockEvent(NamedTuple):
    """One change of a block, for the ``block`` rows."""

    block: int
    event: str
    request: int
    position: int
    ref_count: int


class BlockPool:
    """Fixed number of blocks, reference counted; allocate and free are O(1) per block.

    ``journal`` collects a ``BlockEvent`` per change when it is a list; ``None`` records nothing.
    """

    def __init__(self, num_blocks: int, block_size: int, *, journal: list[BlockEvent] | None = None) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.journal = journal
        self._ref_counts = [0] * num_blocks
        # Least recently freed first. An OrderedDict because a block may leave from the middle when a prefix hit revives it.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._shared = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    @property
    def num_shared(self) -> int:
        """Blocks held by more than one request."""
        return self._shared

    @property
    def num_cached(self) -> int:
        """Unreferenced blocks whose content can still be found."""
        return 0

    def ref_count(self, block: int) -> int:
        return self._ref_counts[block]

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int, request: int, position: int) -> list[int]:
        """Take ``count`` free blocks for places ``position``... of a request's block table.

        Raises:
            PoolExhausted: fewer than ``count`` blocks are free.
        """
        if count > len(self._free):
            raise PoolExhausted(f"{count} blocks asked for, {len(self._free)} free of {self.num_blocks}")
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
        if self.journal is not None:
            self.journal.extend(BlockEvent(b, "allocate", request, position + i, 1) for i, b in enumerate(blocks))
        return blocks

    def share(self, block: int, request: int, position: int) -> None:
        """Add a reference to a block that is in use."""
        if self._ref_counts[block] < 1:
            raise IntegrityError(f"block {block} is shared while nobody holds it")
        self._ref_counts[block] += 1
        if self._ref_counts[block] == 2:
            self._shared += 1
        if self.journal is not None:
            self.journal.append(BlockEvent(block, "share", request, position, self._ref_counts[block]))

    def free(self, blocks: Sequence[int], request: int, first: int = 0) -> None:
        """Give back a request's block table from place ``first`` on. The last block goes first, so prefixes stay longest."""
        for position in range(first + len(blocks) - 1, first - 1, -1):
            block = blocks[position - first]
            count = self._ref_counts[block] - 1
            if count < 0:
                raise IntegrityError(f"block {block} is freed while nobody holds it")
            self._ref_counts[block] = count
            if count == 1:
                self._shared -= 1
            elif count == 0:
                self._free[block] = None
            if self.journal is not None:
                self.journal.append(BlockEvent(block, "free", request, position, count))

    def filled(self, block: int, request: int, position: int) -> None:
        """Note that the last token of a block was computed."""
        if self.journal is not None:
            self.journal.append(BlockEvent(block, "fill", request, position, self._ref_counts[block]))

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Recount every reference from the requests' block tables and compare with the books.

        Raises:
            IntegrityError: a block is lost, held twice by one table, free while held, or counted wrongly.
        """
        expected: Counter[int] = Counter()
        for table in block_tables:
            if len(set(table)) != len(table):
                raise IntegrityError(f"a block table holds a block twice: {table}")
            expected.update(table)
        for block, count in enumerate(self._ref_counts):
            if count != expected[block]:
                raise IntegrityError(f"block {block} has reference count {count}, {expected[block]} tables hold it")
            if (count == 0) != (block in self._free):
                raise IntegrityError(
                    f"block {block} has reference count {count} and is {'' if block in self._free else 'not '}free"
                )
        shared = sum(1 for count in self._ref_counts if count > 1)
        if shared != self._shared:
            raise IntegrityError(f"{self._shared} shared blocks on the books, {shared} counted")
