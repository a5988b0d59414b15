"""The block pool: books that balance, and say so when they do not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.config.errors import IntegrityError
from engine.kv.pool import BlockEvent, BlockPool, PoolExhausted
from tests.examples import examples


def test_allocation_takes_free_blocks_and_free_gives_them_back():
    pool = BlockPool(4, 16)
    table = pool.allocate(3, request=0, position=0)
    assert len(set(table)) == 3
    assert (pool.num_free, pool.num_used) == (1, 3)
    pool.free(table, request=0)
    assert (pool.num_free, pool.num_used) == (4, 0)


def test_exhausted_pool_allocates_nothing():
    pool = BlockPool(2, 16)
    with pytest.raises(PoolExhausted, match="3 blocks asked for, 2 free of 2"):
        pool.allocate(3, request=0, position=0)
    assert pool.num_free == 2


def test_the_least_recently_freed_block_is_reused_first():
    pool = BlockPool(3, 16)
    a, b, c = pool.allocate(3, 0, 0)
    pool.free([b], 0)
    pool.free([a], 0)
    assert pool.allocate(2, 1, 0) == [b, a]
    assert pool.ref_count(c) == 1


def test_shared_blocks_are_counted_until_one_holder_is_left():
    pool = BlockPool(3, 16)
    table = pool.allocate(2, 0, 0)
    pool.share(table[0], request=1, position=0)
    assert pool.num_shared == 1
    pool.check_integrity([table, [table[0]]])
    pool.free([table[0]], 1)
    assert pool.num_shared == 0
    pool.check_integrity([table])


def test_journal_tells_every_change_in_order():
    journal: list[BlockEvent] = []
    pool = BlockPool(4, 16, journal=journal)
    table = pool.allocate(2, request=5, position=0)
    pool.filled(table[0], request=5, position=0)
    pool.free(table, request=5)
    assert [(e.event, e.block, e.position, e.ref_count) for e in journal] == [
        ("allocate", table[0], 0, 1),
        ("allocate", table[1], 1, 1),
        ("fill", table[0], 0, 1),
        ("free", table[1], 1, 0),
        ("free", table[0], 0, 0),
    ]


def test_a_cached_block_that_cannot_be_found_any_more_is_journaled_as_evicted():
    """Whoever replays the journal would else take it for cached: the blocks below an evicted one go with it."""
    journal: list[BlockEvent] = []
    pool = BlockPool(4, 16, journal=journal)
    above, below, held = pool.allocate(3, request=5, position=0)
    for block in (above, below, held):
        pool.publish(block, 100 + block)
    pool.free([above, below], request=5)
    pool.touch(below)  # so that the one above it goes first

    def evicted(block: int) -> None:
        if block == above:
            pool.withdraw(below)
            pool.withdraw(held)

    pool.evicted = evicted
    pool.allocate(2, request=6, position=0)
    assert [(e.block, e.hash) for e in journal if e.event == "evict"] == [(above, 100 + above), (below, 100 + below)]
    assert pool.num_cached == 0


def test_integrity_check_finds_a_leaked_block():
    pool = BlockPool(4, 16)
    pool.allocate(1, 0, 0)
    with pytest.raises(IntegrityError, match="has reference count 1, 0 tables hold it"):
        pool.check_integrity([])


def test_double_free_is_refused():
    pool = BlockPool(4, 16)
    table = pool.allocate(1, 0, 0)
    pool.free(table, 0)
    with pytest.raises(IntegrityError, match="freed while nobody holds it"):
        pool.free(table, 0)


@given(tokens=st.integers(0, 10_000), size=st.sampled_from([1, 7, 16, 256]))
@settings(max_examples=examples(50), deadline=None)
def test_blocks_for_holds_exactly_enough(tokens: int, size: int):
    blocks = BlockPool(1, size).blocks_for(tokens)
    assert blocks * size >= tokens > (blocks - 1) * size or tokens == blocks == 0


class PoolMachine(RuleBasedStateMachine):
    """Random allocations, shares and frees; the books are recounted after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12, 4)
        self.tables: dict[int, list[int]] = {}
        self.next = 0

    @rule(count=st.integers(0, 14))
    def allocate(self, count: int) -> None:
        free = self.pool.num_free
        if count > free:
            with pytest.raises(PoolExhausted):
                self.pool.allocate(count, self.next, 0)
        else:
            self.tables[self.next] = self.pool.allocate(count, self.next, 0)
            self.next += 1

    @precondition(lambda self: any(self.tables.values()))
    @rule(data=st.data())
    def share_prefix(self, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from([t for t in self.tables.values() if t]))
        prefix = source[: data.draw(st.integers(1, len(source)))]
        for position, block in enumerate(prefix):
            self.pool.share(block, self.next, position)
        self.tables[self.next] = list(prefix)
        self.next += 1

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.tables)))
        self.pool.free(self.tables.pop(request), request)

    @invariant()
    def books_balance(self) -> None:
        self.pool.check_integrity(self.tables.values())


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=examples(40), stateful_step_count=30, deadline=None)
