"""The books of two pools: blocks of the KV pool, and of a far pool to which requests' oldest blocks move (after
Infinite-LLM, 2024).

    request A   [ far far far | near near near near ]     the far blocks of a table are its first ones
    request B   [ near near ]

    the KV pool is full and B needs a block: A has the most blocks there, so its oldest one moves
    request A   [ far far far far | near near near ]
    request B   [ near near | near ]

Both pools have one space of block numbers: those of the far pool come behind those of the KV pool. So a block table,
reference counts and the prefix cache are what they are with one pool. A block that moves is moved for all who share it.
Whatever somebody holds may move; what nobody holds and only could be found again is evicted before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

from engine.config.errors import IntegrityError
from engine.kv.far import FarStore
from engine.kv.free_blocks import OldestFirst
from engine.kv.pool import BlockEvent, BlockPool, PoolExhausted
from engine.request import Request


class TwoFreeLists:
    """Free blocks of both pools; those of the KV pool go first."""

    def __init__(self, near: int, far: int) -> None:
        self._first = near
        self.near, self.far = OldestFirst(near), OldestFirst(near + far)
        self.far.take(near, -1)

    def __len__(self) -> int:
        return len(self.near) + len(self.far)

    def __contains__(self, block: int) -> bool:
        return block in (self.far if block >= self._first else self.near)

    def add(self, block: int) -> None:
        (self.far if block >= self._first else self.near).add(block)

    def take(self, count: int, after: int, grow: int = 0) -> list[int]:
        near = min(count, len(self.near))
        return self.near.take(near, after) + self.far.take(count - near, after)


class LendingPool(BlockPool):
    """``BlockPool`` over two pools. ``num_blocks`` are those of both."""

    def __init__(
        self,
        store: FarStore,
        block_size: int,
        *,
        journal: list[BlockEvent] | None = None,
        block_bytes: int = 1,
    ) -> None:
        """``store``: whose blocks these are, those of the KV pool and those of the far pool."""
        near_blocks = store.first
        self._lists = TwoFreeLists(near_blocks, store.cache.num_blocks)
        total = near_blocks + store.cache.num_blocks
        super().__init__(total, block_size, journal=journal, free=self._lists, block_bytes=block_bytes)
        self.near_blocks = near_blocks
        self.far_blocks = store.cache.num_blocks
        self.store = store
        self._touched: set[int] = set()  # since blocks were last allocated: they are about to be copied from

    @property
    def far_used(self) -> int:
        """Blocks of the far pool that requests hold."""
        cached = sum(1 for block in self._cached if block >= self.near_blocks)
        return self.far_blocks - len(self._lists.far) - cached

    def lent(self, table: Sequence[int]) -> int:
        """Blocks at the beginning of a table that lie in the far pool."""
        return bisect_left(table, True, key=lambda block: block < self.near_blocks)

    def touch(self, block: int) -> None:
        super().touch(block)
        self._touched.add(block)

    def allocate(self, count: int, request: int, position: int, after: int = -1, grow: int = 0) -> list[int]:
        if count > self.num_free:
            raise PoolExhausted(f"{count} blocks asked for, {self.num_free} free of {self.num_blocks}")
        own = next((r for r in self.running if r.index == request), None)
        far = self._make_room(count, own)
        self._touched.clear()
        blocks = self._lists.far.take(far, after) + self._lists.near.take(count - far, after)
        for block in blocks:
            self._ref_counts[block] = 1
        if self.journal is not None:
            self.journal.extend(BlockEvent(b, "allocate", request, position + i, 1) for i, b in enumerate(blocks))
        return blocks

    def free(self, blocks: Sequence[int], request: int, first: int = 0) -> None:
        if not first and (lent := self.lent(blocks)):
            self.store.lend(request, -lent, 0)
        super().free(blocks, request, first)

    def _make_room(self, count: int, own: Request | None) -> int:
        """Free blocks of the KV pool for ``count`` more of a request's; returns how many of them are to lie in the far
        pool instead, and are free there: of a table that has none in the KV pool, the next ones."""
        near, far, ahead = self._lists.near, self._lists.far, count
        if len(near) >= ahead:
            return 0
        moved: dict[int, list[tuple[int, int]]] = defaultdict(list)
        before = {r.index: self.lent(r.block_table) for r in self.running}
        held = {r.index: len(r.block_table) - before[r.index] for r in self.running}
        while len(near) < ahead:
            if self._evict_one(near=True) or (len(far) <= count - ahead and self._evict_one(near=False)):
                continue
            most = max(self.running, key=lambda r: (held[r.index] + (ahead if r is own else 0), r is own, r.order))
            if most is own and not held[most.index]:
                ahead -= 1
                continue
            self._lend(most, held, moved[most.index])
        for request in self.running:
            lent = self.lent(request.block_table) + (count - ahead if request is own else 0)
            if more := lent - before[request.index]:
                self.store.lend(request.index, more, lent, moved[request.index])
        return count - ahead

    def _lend(self, request: Request, held: dict[int, int], moved: list[tuple[int, int]]) -> None:
        """The oldest block that a request has in the KV pool gets a number of the far pool, for all who share it.

        Args:
            held: blocks of each running request in the KV pool; brought up to date.
            moved: gets both numbers, where there is something to copy.

        Raises:
            IntegrityError: somebody shares it whose table has blocks of the KV pool before it.
        """
        place = self.lent(request.block_table)
        block, (after,) = request.block_table[place], self._lists.far.take(1, -1)
        holders = [r for r in self.running if r.block_table[place : place + 1] == [block]]
        if len(holders) != self._ref_counts[block] or any(self.lent(r.block_table) != place for r in holders):
            raise IntegrityError(f"block {block} at place {place} is not the next to move of all who hold it")
        if block in self._hashes or any(r.num_computed_tokens > place * self.block_size for r in holders):
            moved.append((block, after))
        for holder in holders:
            holder.block_table[place] = after
            held[holder.index] -= 1
        self._ref_counts[after], self._ref_counts[block] = self._ref_counts[block], 0
        if (hash := self._hashes.pop(block, None)) is not None:
            self._hashes[after] = hash
            self.moved(block, after)
        self._lists.near.add(block)
        self._note_move(block, after, [r.index for r in holders], place, holders[0].num_computed_tokens)

    def _note_move(self, block: int, after: int, holders: Sequence[int], place: int, computed: int) -> None:
        """For the ``block`` rows a move is a block that is taken and filled, and one that is freed."""
        if self.journal is None:
            return
        hash = self._hashes.get(after, -1)
        for count, holder in enumerate(holders, 1):
            self.journal.append(BlockEvent(after, "share" if count > 1 else "allocate", holder, place, count, -1))
        if computed >= (place + 1) * self.block_size or hash >= 0:
            self.journal.append(BlockEvent(after, "fill", holders[0], place, len(holders), hash))
        for count, holder in zip(range(len(holders) - 1, -1, -1), holders, strict=True):
            self.journal.append(BlockEvent(block, "free", holder, place, count, -1))

    def _evict_one(self, *, near: bool) -> bool:
        """The least recently used cached block of one pool loses its content; False where there is none."""
        found = (b for b in self._cached if (b < self.near_blocks) == near and b not in self._touched)
        block = next(found, None)
        if block is None:
            return False
        self.evict(block)
        return True

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        tables = list(block_tables)
        super().check_integrity(tables)
        for table in tables:
            lent = self.lent(table)
            if any(block < self.near_blocks for block in table[:lent]) or any(
                block >= self.near_blocks for block in table[lent:]
            ):
                raise IntegrityError(f"a block table has blocks of the KV pool before those of the far pool: {table}")
        free = [len(self._lists.near), len(self._lists.far)]
        cached = sum(1 for block in self._cached if block >= self.near_blocks)
        used = sum(1 for block, count in enumerate(self._ref_counts) if count and block >= self.near_blocks)
        if free[1] + cached + used != self.far_blocks:
            raise IntegrityError(f"the far pool has {free[1]} free, {cached} cached, {used} used of {self.far_blocks}")
        if sum(free) + len(self._cached) + self.num_used != self.num_blocks:
            raise IntegrityError(f"two pools of {self.num_blocks} blocks have {free} free and {self.num_used} used")
