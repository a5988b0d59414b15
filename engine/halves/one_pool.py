"""One KV pool that two processes take blocks from (after semi-PD's atomic allocation, 2025).

    shared memory   | counts | owner of each block | ring of free blocks |

    free --take--> prefill --hand over--> on its way --take over--> decode --free--> free

A block belongs to one half at a time. A half holds the lock while it plans: between a look at how much is free and the
blocks it takes, the other takes none. The lock is the kernel's, so it goes with a process that dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from engine.config.errors import IntegrityError
from engine.halves.shared import nameless_file
from engine.kv.pool import BlockEvent, BlockPool

Half = Literal["prefill", "decode"]
OTHER: dict[Half, Half] = {"prefill": "decode", "decode": "prefill"}
FREE, PREFILL, ON_ITS_WAY, DECODE = range(4)
OWNER: dict[Half, int] = {"prefill": PREFILL, "decode": DECODE}
_NAMES = (
    "head",
    "free",
    "wanted",
    "on_its_way",
    "share",
    "prefill_cores",
    "decode_cores",
    "prefill_busy",
    "decode_busy",
)
COUNTS = {name: place for place, name in enumerate(_NAMES)}
_NUMBER = 8  # bytes


class SharedBooks:
    """What both halves know of the pool and of the cores. Made before the second process is forked from the first."""

    def __init__(self, num_blocks: int) -> None:
        """All blocks are free. Raises OSError where the system gives no memory."""
        self.num_blocks = num_blocks
        self.file = nameless_file()
        self._memory = mmap.mmap(-1, _NUMBER * (len(COUNTS) + 2 * num_blocks))
        numbers = memoryview(self._memory).cast("q")
        self.counts = numbers[: len(COUNTS)]
        self.owner = numbers[len(COUNTS) : len(COUNTS) + num_blocks]
        self.ring = numbers[len(COUNTS) + num_blocks :]
        for block in range(num_blocks):
            self.ring[block] = block
        self.counts[COUNTS["free"]] = num_blocks

    def close(self) -> None:
        os.close(self.file)


class Books:
    """One half's hold on the shared books. Numbers may be read at any time, and are steady while it is locked."""

    def __init__(self, shared: SharedBooks, half: Half) -> None:
        """To be made in the process that uses it: a lock belongs to a file that was opened once."""
        self.shared = shared
        self.half = half
        self._file = os.open(f"/proc/self/fd/{shared.file}", os.O_RDWR | os.O_CLOEXEC)
        self._depth = 0

    def __getitem__(self, name: str) -> int:
        return self.shared.counts[COUNTS[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self.shared.counts[COUNTS[name]] = value

    @property
    def is_locked(self) -> bool:
        """By this half."""
        return self._depth > 0

    def lock(self) -> None:
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        self._depth += 1

    def unlock(self) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    @contextlib.contextmanager
    def open_meanwhile(self) -> Iterator[None]:
        """Let the other half have it for a while."""
        depth, self._depth = self._depth, 0
        if depth:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        try:
            yield
        finally:
            if depth:
                fcntl.flock(self._file, fcntl.LOCK_EX)
            self._depth = depth

    def close(self) -> None:
        os.close(self._file)

    def give(self, block: int) -> None:
        """A block is free. To be called while it is locked."""
        shared = self.shared
        shared.owner[block] = FREE
        shared.ring[(self["head"] + self["free"]) % shared.num_blocks] = block
        self["free"] += 1

    def take(self, count: int) -> list[int]:
        """Blocks that were freed longest ago become this half's. To be called while it is locked, with as many free."""
        shared, head = self.shared, self["head"]
        if count > self["free"]:
            raise IntegrityError(f"{count} blocks are taken and {self['free']} are free")
        blocks = [shared.ring[(head + place) % shared.num_blocks] for place in range(count)]
        for block in blocks:
            shared.owner[block] = OWNER[self.half]
        self["head"], self["free"] = (head + count) % shared.num_blocks, self["free"] - count
        return blocks


class FreeOfBoth:
    """``FreeBlocks`` of the pool that both halves take from. The prefill half leaves what the decode half wants."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def __len__(self) -> int:
        left = self._books["wanted"] if self._books.half == "prefill" else 0
        return max(0, self._books["free"] - left)

    def __contains__(self, block: int) -> bool:
        return self._books.shared.owner[block] == FREE

    def add(self, block: int) -> None:
        self._books.give(block)

    def take(self, count: int, after: int, grow: int = 0) -> list[int]:
        return self._books.take(count)


class OnePool(BlockPool):
    """The pool as one half sees it: its own blocks, and those that it may take. Nothing in it is shared by requests."""

    def __init__(
        self, books: Books, block_size: int, *, journal: list[BlockEvent] | None = None, block_bytes: int = 1
    ) -> None:
        total = books.shared.num_blocks
        super().__init__(total, block_size, journal=journal, free=FreeOfBoth(books), block_bytes=block_bytes)
        self._ref_counts = [0] * total
        self.books = books
        self._held = 0

    @property
    def num_used(self) -> int:
        """Blocks that this half's requests hold; the decode half's with those that are on their way to it."""
        return self._held + (self.books["on_its_way"] if self.books.half == "decode" else 0)

    def allocate(self, count: int, request: int, position: int, after: int = -1, grow: int = 0) -> list[int]:
        with self.books.locked():
            blocks = super().allocate(count, request, position, after, grow)
            self._held += count
        return blocks

    def free(self, blocks: Sequence[int], request: int, first: int = 0) -> None:
        with self.books.locked():
            super().free(blocks, request, first)
            self._held -= len(blocks)

    def hand_over(self, blocks: Sequence[int]) -> None:
        """Blocks that this half holds are on their way to the other; no row says so, as nobody frees them."""
        self._change(blocks, OWNER[self.books.half], ON_ITS_WAY, 1)

    def take_over(self, blocks: Sequence[int]) -> None:
        """Blocks that were handed over are this half's."""
        self._change(blocks, ON_ITS_WAY, OWNER[self.books.half], -1)

    def _change(self, blocks: Sequence[int], before: int, after: int, on_its_way: int) -> None:
        owner = self.books.shared.owner
        with self.books.locked():
            for block in blocks:
                if owner[block] != before:
                    raise IntegrityError(f"block {block} changes hands while it is another's")
                owner[block] = after
                self._ref_counts[block] -= on_its_way
            self.books["on_its_way"] += on_its_way * len(blocks)
            self._held -= on_its_way * len(blocks)

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Recount this half's blocks, and the books of both.

        Raises:
            IntegrityError: a block is lost, held twice, or free while held.
        """
        held = Counter(block for table in block_tables for block in table)
        with self.books.locked():
            owner, mine = list(self.books.shared.owner), OWNER[self.books.half]
            free = [
                self.books.shared.ring[(self.books["head"] + i) % self.num_blocks] for i in range(self.books["free"])
            ]
            on_its_way = self.books["on_its_way"]
        for block, count in enumerate(self._ref_counts):
            if count != held[block] or count != (owner[block] == mine):
                raise IntegrityError(
                    f"block {block} has reference count {count}, {held[block]} tables hold it, its owner is "
                    f"{owner[block]}"
                )
        if sorted(free) != [block for block, whose in enumerate(owner) if whose == FREE]:
            raise IntegrityError(f"the ring of free blocks holds {sorted(free)}, the owners say another")
        if owner.count(ON_ITS_WAY) != on_its_way:
            raise IntegrityError(f"{on_its_way} blocks on their way on the books, {owner.count(ON_ITS_WAY)} counted")
        if sum(held.values()) != self._held:
            raise IntegrityError(f"{self._held} blocks held on the books, {sum(held.values())} counted")
