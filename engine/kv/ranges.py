"""Contiguous layouts of the pool: each request's blocks are neighbours, in a range of their own.

    pool           | range 0          | range 1          | range 2          |
    reserve-max    [A A A a a a a a a][B b b b b b b b b][                  ]   a, b: reserved, and nobody else's
    demand-paged   [A A A . . . . . .][B . . . . . . . .][c c . . . . . . . ]   . no memory; c: kept mapped for the next

A block table is then ``first, first + 1, ...``, so attention needs its first entry and a length. What a range takes of
the pool's memory is the layout's: all of it from the start, or the pages that have been needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import ClassVar

from engine.config.errors import IntegrityError
from engine.kv.address_space import AddressSpace
from engine.kv.pool import BlockEvent, BlockPool, PoolExhausted


class Ranges:
    """Which blocks of ranges of ``length`` are held: a ``FreeBlocks`` whose tables never leave their range."""

    def __init__(self, ranges: int, length: int) -> None:
        self.length = length
        self.empty: OrderedDict[int, None] = OrderedDict.fromkeys(range(ranges))  # held by nobody, longest ago first
        self.choose: Callable[[], int] = lambda: next(iter(self.empty))  # of the empty ones, for a newcomer
        self.emptied: Callable[[int], None] = lambda number: None  # told of a range that nobody holds any more
        self._held: set[int] = set()
        self._count = [0] * ranges

    def __len__(self) -> int:
        return len(self._count) * self.length - len(self._held)

    def __contains__(self, block: int) -> bool:
        return block not in self._held

    @property
    def in_use(self) -> int:
        return len(self._count) - len(self.empty)

    def add(self, block: int) -> None:
        self._held.remove(block)
        number = block // self.length
        self._count[number] -= 1
        if not self._count[number]:
            self.empty[number] = None
            self.emptied(number)

    def take(self, count: int, after: int, grow: int = 0) -> list[int]:
        if not count:
            return []
        if after < 0:
            first = self.choose() * self.length
            del self.empty[first // self.length]
        else:
            first = after + 1
        blocks = list(range(first, first + count))
        self._held.update(blocks)
        self._count[first // self.length] += count
        return blocks


class RangePool(BlockPool):
    """A pool of ranges. ``num_blocks`` counts the memory; blocks are numbered by their addresses."""

    contiguous = True

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        ranges: int,
        length: int,
        *,
        journal: list[BlockEvent] | None = None,
        block_bytes: int = 1,
    ) -> None:
        """
        Args:
            ranges: how many there are addresses for.
            length: blocks of a range.
        """
        self._ranges = Ranges(ranges, length)
        self._ranges.emptied = self._emptied
        super().__init__(num_blocks, block_size, journal=journal, free=self._ranges, block_bytes=block_bytes)
        self.length = length

    def _emptied(self, number: int) -> None:
        """Nobody holds this range any more."""

    def _beyond(self, more: int, after: int) -> bool:
        """Whether no range has room for this."""
        held = after % self.length + 1 if after >= 0 else 0
        return held + more > self.length or (after < 0 and not self._ranges.empty)

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        tables = [table for table in block_tables if table]
        super().check_integrity(tables)
        owners: dict[int, int] = {}
        for table in tables:
            if list(table) != list(range(table[0], table[0] + len(table))):
                raise IntegrityError(f"a block table is not contiguous: {table}")
            if table[0] // self.length != table[-1] // self.length:
                raise IntegrityError(f"a block table leaves its range of {self.length} blocks: {table}")
            owners[table[0] // self.length] = owners.get(table[0] // self.length, 0) + 1
        if len(owners) != self._ranges.in_use:
            raise IntegrityError(f"{self._ranges.in_use} ranges on the books, {len(owners)} in block tables")


class ReserveMax(RangePool):
    """Contiguous, all of a range's memory reserved for its request, as before paging."""

    layout: ClassVar[str] = "reserve-max"

    @property
    def num_free(self) -> int:
        return self.num_blocks - self.length * self._ranges.in_use

    @property
    def spare(self) -> int:
        return 0  # who has a range has all it may need

    def cost(self, more: int, after: int = -1) -> int:
        if more <= 0:
            return 0
        if self._beyond(more, after):
            return self.num_blocks + 1
        return self.length if after < 0 else 0

    def memory_of(self, table: Sequence[int]) -> int:
        return self.length if table else 0


class DemandPaged(RangePool):
    """Contiguous addresses, and memory mapped behind them page by page (vAttention, 2024).

    Memory is counted in whole pages of every stripe, and what the block events name are places in the order in which
    they were taken, not addresses, of which there are many more.
    """

    layout: ClassVar[str] = "demand-paged"

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        ranges: int,
        length: int,
        *,
        space: AddressSpace,
        journal: list[BlockEvent] | None = None,
        block_bytes: int = 1,
        deferred: bool = True,
    ) -> None:
        """
        Args:
            space: the memory behind the ranges.
            deferred: pages of a range that nobody holds stay mapped until memory is short.
        """
        super().__init__(num_blocks, block_size, ranges, length, journal=journal, block_bytes=block_bytes)
        self.space = space
        self.deferred = deferred
        self._ranges.choose = self._most_fitting
        self._bytes = [space.bytes_of(blocks) for blocks in range(length + 1)]
        self._mapped = [0] * ranges  # blocks of each range that have memory behind them
        self._held_bytes = self._kept_bytes = 0
        self._needed = 0  # blocks that the newcomer needs
        self._places: dict[int, int] = {}  # block -> its place in the block events
        self._free_places = list(range(num_blocks))
        heapify(self._free_places)

    @property
    def num_free(self) -> int:
        """Of the memory that no request holds; kept pages can be had."""
        return (self.num_blocks * self.block_bytes - self._held_bytes) // self.block_bytes

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    @property
    def kept_bytes(self) -> int:
        return self._kept_bytes

    @property
    def mapping_ns(self) -> int:  # type: ignore[override]
        return self.space.spent_ns

    def resident_bytes(self) -> int | None:
        return self.space.resident_bytes()

    def bytes_of(self, blocks: int) -> int:
        return self._bytes[blocks]

    def cost(self, more: int, after: int = -1) -> int:
        if more <= 0:
            return 0
        if self._beyond(more, after):
            return self.num_blocks + 1
        if after < 0:
            return -(-self._bytes[more] // self.block_bytes)
        number, held = after // self.length, after % self.length + 1
        missing = self._bytes[max(held + more, self._mapped[number])] - self._bytes[self._mapped[number]]
        return -(-missing // self.block_bytes)

    def memory_of(self, table: Sequence[int]) -> int:
        return self._bytes[self._mapped[table[0] // self.length]] // self.block_bytes if table else 0

    def allocate(self, count: int, request: int, position: int, after: int = -1, grow: int = 0) -> list[int]:
        if count and self.cost(count, after) > self.num_free:
            raise PoolExhausted(f"{count} blocks asked for, memory for {self.num_free} free of {self.num_blocks}")
        self._needed = count
        kept, self.journal = self.journal, None
        blocks = super().allocate(count, request, position, after, grow)
        self.journal = kept
        if not blocks:
            return blocks
        number = blocks[0] // self.length
        if after < 0:
            self._kept_bytes -= self._bytes[self._mapped[number]]
            self._held_bytes += self._bytes[self._mapped[number]]
        self._map(number, blocks[-1] % self.length + 1)
        for place, block in enumerate(blocks):
            if self.journal is not None:
                self._places[block] = heappop(self._free_places)
                self.journal.append(BlockEvent(self._places[block], "allocate", request, position + place, 1))
        return blocks

    def _map(self, number: int, blocks: int) -> None:
        """So many blocks of a held range have memory behind them."""
        before = self._mapped[number]
        if blocks <= before:
            return
        missing = self._bytes[blocks] - self._bytes[before]
        while self.num_blocks * self.block_bytes - self._held_bytes - self._kept_bytes < missing:
            self._release(next(r for r in self._ranges.empty if self._mapped[r]))
        self.space.map(number, before, blocks)
        self._mapped[number] = blocks
        self._held_bytes += missing
        self.mapped_bytes += missing

    def _release(self, number: int) -> None:
        """Give back the pages of a range that nobody holds."""
        nbytes = self._bytes[self._mapped[number]]
        self.space.unmap(number, self._mapped[number])
        self._mapped[number] = 0
        self._kept_bytes -= nbytes
        self.released_bytes += nbytes

    def _emptied(self, number: int) -> None:
        nbytes = self._bytes[self._mapped[number]]
        self._held_bytes -= nbytes
        self._kept_bytes += nbytes
        if not self.deferred:
            self._release(number)

    def _most_fitting(self) -> int:
        """Of the ranges that nobody holds: the one with the fewest pages that are enough, else with the most."""
        empty, mapped = self._ranges.empty, self._mapped
        enough = [r for r in empty if mapped[r] >= self._needed]
        return min(enough, key=lambda r: mapped[r]) if enough else max(empty, key=lambda r: mapped[r])

    def _note(self, block: int, event: str, request: int, position: int) -> None:
        if self.journal is None:
            return
        place = self._places[block]
        self.journal.append(BlockEvent(place, event, request, position, self.ref_count(block)))
        if event == "free":
            heappush(self._free_places, self._places.pop(block))

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        tables = [table for table in block_tables if table]
        super().check_integrity(tables)
        held = {table[0] // self.length for table in tables}
        sums = [
            sum(self._bytes[m] for r, m in enumerate(self._mapped) if (r in held) == kept) for kept in (True, False)
        ]
        if sums != [self._held_bytes, self._kept_bytes]:
            raise IntegrityError(f"bytes mapped {sums} are not {[self._held_bytes, self._kept_bytes]} on the books")
        if sum(sums) > self.num_blocks * self.block_bytes:
            raise IntegrityError(f"{sum(sums)} bytes are mapped, the pool has {self.num_blocks * self.block_bytes}")
        for table in tables:
            if table[-1] % self.length >= self._mapped[table[0] // self.length]:
                raise IntegrityError(f"a block table goes beyond what is mapped: {table}")
