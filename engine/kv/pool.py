"""The block pool: who holds which KV block.

    block table of a request     blocks of the pool            reference counts
    [ 3 | 7 | 1 ]  ------------>  0 1 2 3 4 5 6 7               0 1 0 1 0 0 0 1
      16  16  5 tokens            (block_size tokens each)

A block that somebody may find again (``engine.kv.prefix``) is *published* under a hash of its content. When nobody
holds it any more it is *cached*: still found, and taken for something else only once no other block is free, least
recently used first.

    allocated --free--> free                         not published
    allocated --free--> cached --share--> allocated  published: found again
                        cached --evict--> allocated  published: its content is lost

A published block may also be *pinned* (``engine.scheduling.time_to_live``): it is found as before and not evicted as
long as a pin lasts. A pinned block that nobody holds is neither free nor used.

The pool keeps books only; ``engine.kv.cache`` holds the tensors.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence, Set
from itertools import islice
from typing import ClassVar, NamedTuple

from engine.block_table import blocks_for
from engine.config.errors import IntegrityError
from engine.kv.free_blocks import FreeBlocks, OldestFirst
from engine.request import Request


class PoolExhausted(Exception):
    """Fewer blocks are free than were asked for; nothing was allocated."""


class BlockEvent(NamedTuple):
    """One change of a block, for the ``block`` rows."""

    block: int
    event: str
    request: int
    position: int
    ref_count: int
    hash: int = -1  # what the block is published under; -1 if it is not


class BlockPool:
    """Fixed number of blocks, reference counted; every operation is O(1) per block.

    ``journal`` collects a ``BlockEvent`` per change when it is a list; ``None`` records nothing. ``evicted`` is told
    each published block whose content is lost, ``reused`` the blocks that are about to be written, ``moved`` each one
    that got another number.

    This is the paged layout: any block may follow any other. ``engine.kv.ranges`` has those in which a table's blocks
    are neighbours; what a block then takes of the memory is asked for by ``cost`` and ``memory_of``.
    """

    layout: ClassVar[str] = "paged"
    contiguous: ClassVar[bool] = False  # every block table is first, first + 1, ...
    watched = False  # whether what its memory is used for is recorded
    mapped_bytes = 0  # that memory was mapped for so far, where it is mapped as it is needed
    released_bytes = 0  # and given back
    mapping_ns = 0  # and what both took

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        journal: list[BlockEvent] | None = None,
        free: FreeBlocks | None = None,
        block_bytes: int = 1,
    ) -> None:
        """``free``: all of the pool's blocks, in the order in which they are handed out; None: oldest first.
        ``block_bytes``: memory of a block."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.block_bytes = block_bytes
        self.journal = journal
        self.evicted: Callable[[int], None] = lambda block: None
        self.reused: Callable[[Sequence[int]], None] = lambda blocks: None
        self.moved: Callable[[int, int], None] = lambda before, after: None
        self.running: Sequence[Request] = ()  # of the books: who holds blocks
        self._free = OldestFirst(num_blocks) if free is None else free
        self._ref_counts = [0] * len(self._free)
        # Least recently freed first; an OrderedDict because a prefix hit takes blocks from its middle.
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._hashes: dict[int, int] = {}  # published blocks
        self._pins: dict[int, int] = {}  # pins on each pinned block
        self._pinned: set[int] = set()  # pinned blocks that nobody holds
        self._shared = 0
        self._spared = 0

    @property
    def num_free(self) -> int:
        """Blocks that can be had, cached ones included."""
        return len(self._free) + len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free - len(self._pinned)

    @property
    def num_shared(self) -> int:
        """Blocks held by more than one request."""
        return self._shared

    @property
    def num_cached(self) -> int:
        """Unreferenced blocks whose content can still be found, pinned ones included."""
        return len(self._cached) + len(self._pinned)

    @property
    def num_pinned(self) -> int:
        """Blocks with a pin on them, held by requests or not."""
        return len(self._pins)

    @property
    def num_spared(self) -> int:
        """Blocks more that requests would hold if nothing were shared."""
        return self._spared

    @property
    def published(self) -> Set[int]:
        """Blocks whose content can be found, held or not."""
        return self._hashes.keys()

    @property
    def spare(self) -> int:
        """Free blocks that admission leaves to those who run, to grow into."""
        return max(1, self.num_blocks // 100)

    @property
    def held_bytes(self) -> int:
        """Memory that requests hold."""
        return self.num_used * self.block_bytes

    @property
    def kept_bytes(self) -> int:
        """Memory that nobody holds, with something in it that may be of use."""
        return self.num_cached * self.block_bytes

    def resident_bytes(self) -> int | None:
        """Memory that is really behind the pool, as the system counts it; None where all of it always is."""
        return None

    def bytes_of(self, blocks: int) -> int:
        """Memory that so many blocks of a table need."""
        return blocks * self.block_bytes

    def cost(self, more: int, after: int = -1) -> int:
        """Free blocks that it takes to extend a table, whose last block is ``after`` (-1: it has none), by ``more``;
        more than the pool has where that cannot be."""
        return max(0, more)

    def memory_of(self, table: Sequence[int]) -> int:
        """Blocks that are free once those of a table are."""
        return len(table)

    def ref_count(self, block: int) -> int:
        return self._ref_counts[block]

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return blocks_for(tokens, self.block_size)

    def allocate(self, count: int, request: int, position: int, after: int = -1, grow: int = 0) -> list[int]:
        """Take ``count`` free blocks for places ``position``... of a request's block table, cached ones last.

        ``after`` is the block before them in the table, -1 if there is none, and ``grow`` how many the table may need
        beyond them.

        Raises:
            PoolExhausted: fewer blocks are free than it takes.
        """
        if self.cost(count, after) > self.num_free:
            raise PoolExhausted(f"{count} blocks asked for, {self.num_free} free of {self.num_blocks}")
        while len(self._free) < count:
            self._evict()
        blocks = self._free.take(count, after, grow)
        self.reused(blocks)
        for block in blocks:
            self._ref_counts[block] = 1
        if self.journal is not None:
            self.journal.extend(BlockEvent(b, "allocate", request, position + i, 1) for i, b in enumerate(blocks))
        return blocks

    def share(self, block: int, request: int, position: int) -> None:
        """Add a reference to a block that is in use or cached."""
        if self._ref_counts[block] < 1:
            if block not in self._cached and block not in self._pinned:
                raise IntegrityError(f"block {block} is shared while nobody holds it")
            self._cached.pop(block, None)
            self._pinned.discard(block)
        else:
            self._spared += 1
        self._ref_counts[block] += 1
        if self._ref_counts[block] == 2:
            self._shared += 1
        self._note(block, "share", request, position)

    def free(self, blocks: Sequence[int], request: int, first: int = 0) -> None:
        """Give back blocks at places ``first``... of a request's table. The last goes first, so prefixes stay
        longest."""
        for place in range(len(blocks) - 1, -1, -1):
            block = blocks[place]
            count = self._ref_counts[block] - 1
            if count < 0:
                raise IntegrityError(f"block {block} is freed while nobody holds it")
            self._ref_counts[block] = count
            if count > 0:
                self._spared -= 1
                self._shared -= count == 1
            elif block in self._pins:
                self._pinned.add(block)
            elif block in self._hashes:
                self._cached[block] = None
            else:
                self._free.add(block)
            self._note(block, "free", request, first + place)

    def filled(self, block: int, request: int, position: int) -> None:
        """Note that the last token of a block was computed."""
        self._note(block, "fill", request, position)

    def quantised(self, block: int, request: int, position: int) -> None:
        """Note that all of a block's tokens are packed."""
        self._note(block, "quantise", request, position)

    def publish(self, block: int, hash: int) -> None:
        """A held block's content can be found from now on, also after it is freed."""
        if self._ref_counts[block] < 1:
            raise IntegrityError(f"block {block} is published while nobody holds it")
        self._hashes[block] = hash

    def withdraw(self, block: int) -> None:
        """A published block cannot be found any more; whoever holds it keeps it, and one nobody holds is evicted."""
        if block in self._cached:
            self._note(block, "evict", -1, -1)
            del self._cached[block]
            self._free.add(block)
        del self._hashes[block]

    def touch(self, block: int) -> None:
        """A cached block was used: it becomes the last to be evicted."""
        if block in self._cached:
            self._cached.move_to_end(block)

    def is_evictable(self, block: int) -> bool:
        """Whether nobody holds a block and no pin keeps it, while it can be found."""
        return block in self._cached

    def pin(self, blocks: Iterable[int]) -> None:
        """Published blocks are not evicted until as many times unpinned."""
        for block in blocks:
            if block not in self._hashes:
                raise IntegrityError(f"block {block} is pinned and cannot be found")
            self._pins[block] = self._pins.get(block, 0) + 1
            if block in self._cached:
                del self._cached[block]
                self._pinned.add(block)

    def unpin(self, blocks: Iterable[int]) -> None:
        """Take a pin off each block. Those that nobody holds and no other pin keeps are the next to be evicted, the
        last of ``blocks`` first."""
        for block in blocks:
            self._pins[block] -= 1
            if self._pins[block]:
                continue
            del self._pins[block]
            if block in self._pinned:
                self._pinned.remove(block)
                self._cached[block] = None
                self._cached.move_to_end(block, last=False)

    def frees(self, pins: Iterable[Sequence[int]]) -> int:
        """Blocks that could be had if these pins were taken off."""
        off = Counter(block for blocks in pins for block in blocks)
        return sum(1 for block in self._pinned if off[block] == self._pins[block])

    def next_evicted(self, count: int) -> list[int]:
        """The cached blocks that are evicted next where so many blocks are taken."""
        return list(islice(self._cached, max(0, count - len(self._free))))

    def evict(self, block: int) -> None:
        """A block that nobody holds and no pin keeps loses its content."""
        if block not in self._cached:
            raise IntegrityError(f"block {block} is evicted while it is held, pinned or free")
        self.withdraw(block)
        self.evicted(block)

    def drop_cached(self) -> int:
        """Lose the content of every block that nobody holds; how many there were."""
        count = 0
        while self._cached:  # one takes others with it
            self._evict()
            count += 1
        return count

    def _evict(self) -> None:
        """The least recently used cached block loses its content."""
        self.evict(next(iter(self._cached)))

    def _note(self, block: int, event: str, request: int, position: int) -> None:
        if self.journal is not None:
            hash = self._hashes.get(block, -1)
            self.journal.append(BlockEvent(block, event, request, position, self._ref_counts[block], hash))

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
            places = (block in self._free) + (block in self._cached) + (block in self._pinned)
            if places != (count == 0):
                raise IntegrityError(f"block {block} has reference count {count} and is in {places} free lists")
            if (block in self._cached and block in self._pins) or (block in self._pinned and block not in self._pins):
                raise IntegrityError(f"block {block} has {self._pins.get(block, 0)} pins and is in the other list")
            if block in self._pins and block not in self._hashes:
                raise IntegrityError(f"block {block} is pinned and cannot be found")
            if block in self._cached and block not in self._hashes:
                raise IntegrityError(f"block {block} is cached and cannot be found")
        shared = sum(1 for count in self._ref_counts if count > 1)
        if shared != self._shared:
            raise IntegrityError(f"{self._shared} shared blocks on the books, {shared} counted")
        spared = sum(count - 1 for count in self._ref_counts if count > 1)
        if spared != self._spared:
            raise IntegrityError(f"{self._spared} spared blocks on the books, {spared} counted")
