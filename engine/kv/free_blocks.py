"""Which of the free blocks are handed out next: the oldest, or such that a request's blocks lie beside each other.

pool     [A A A . . . B B . . . . . C . .]        free runs: 3 blocks at 3, 5 at 8, 2 at 14
``LargestRun`` gives a newcomer 2 blocks of the largest run, in its middle:
         [A A A . . . B B . D D . . C . .]        B and D both have room to grow
A's next block is the one behind its last, B's too; where that is taken, the middle of the largest run again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from typing import Protocol


class FreeBlocks(Protocol):
    """Blocks that nobody holds and nobody can find."""

    def __len__(self) -> int: ...

    def __contains__(self, block: int) -> bool: ...

    def add(self, block: int) -> None:
        """A block has become free."""
        ...

    def take(self, count: int, after: int, grow: int = 0) -> list[int]:
        """Remove ``count`` blocks, which must be there, for places of a block table that follow block ``after``
        (-1: the table begins with them). ``grow``: blocks that the table may need beyond them."""
        ...


class OldestFirst:
    """The block that was freed first goes first."""

    def __init__(self, blocks: int) -> None:
        self._order: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, block: int) -> bool:
        return block in self._order

    def add(self, block: int) -> None:
        self._order[block] = None

    def take(self, count: int, after: int, grow: int = 0) -> list[int]:
        return [self._order.popitem(last=False)[0] for _ in range(count)]


class LargestRun:
    """Block groups (after FastSwitch, 2024): whole runs of neighbours are kept, served from the largest and merged
    when a block between them is freed.

    A table grows into the block behind its last one where that is free. Else it is served from the largest run, behind
    the blocks that the table before the run may still need, and these are at most half of what is left over. What one
    run cannot give is taken from several. Work grows with the number of runs, at most half the pool's blocks.
    """

    def __init__(self, blocks: int) -> None:
        self._length: dict[int, int] = {}  # first block of a run -> its blocks
        self._first: dict[int, int] = {}  # last block of a run -> its first
        self._sizes: list[tuple[int, int]] = []  # (blocks, -first block) of every run, sorted
        self._wanted: dict[int, int] = {}  # last block of a table -> blocks it may still need
        self._free = 0
        if blocks:
            self._insert(0, blocks)

    def __len__(self) -> int:
        return self._free

    def __contains__(self, block: int) -> bool:
        return self._run_of(block) is not None

    @property
    def runs(self) -> list[tuple[int, int]]:
        """(first block, blocks) of every free run, in order of place."""
        return sorted(self._length.items())

    def add(self, block: int) -> None:
        self._wanted.pop(block, None)
        first, last = block, block
        if (before := self._first.get(block - 1)) is not None:
            self._remove(before)
            first = before
        if (behind := self._length.get(block + 1)) is not None:
            self._remove(block + 1)
            last = block + behind
        self._insert(first, last - first + 1)

    def take(self, count: int, after: int, grow: int = 0) -> list[int]:
        taken: list[int] = []
        self._wanted.pop(after, None)
        while count:
            begin = taken[-1] if taken else after
            if begin >= 0 and begin + 1 in self._length:  # go on where the table ends
                first, place = begin + 1, 0
            else:
                first = -self._sizes[-1][1]
                spare = max(0, self._length[first] - count)
                place = min(self._wanted.get(first - 1, 0), spare // 2)
            given = min(count, self._length[first] - place)
            self._cut(first, place, given)
            taken += range(first + place, first + place + given)
            count -= given
        if taken and grow > 0:
            self._wanted[taken[-1]] = grow
        return taken

    def _cut(self, first: int, place: int, count: int) -> None:
        """Remove ``count`` blocks from ``place`` on out of the run that begins at ``first``."""
        length = self._length[first]
        self._remove(first)
        if place:
            self._insert(first, place)
        if rest := length - place - count:
            self._insert(first + place + count, rest)

    def _insert(self, first: int, length: int) -> None:
        self._length[first] = length
        self._first[first + length - 1] = first
        insort(self._sizes, (length, -first))
        self._free += length

    def _remove(self, first: int) -> None:
        length = self._length.pop(first)
        del self._first[first + length - 1]
        del self._sizes[bisect_left(self._sizes, (length, -first))]
        self._free -= length

    def _run_of(self, block: int) -> int | None:
        return next((first for first, length in self._length.items() if first <= block < first + length), None)
