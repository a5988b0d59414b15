"""Layouts, part by part: ranges, what they take of the pool's memory, pages that are really given back, and refusals."""

from __future__ import annotations

import mmap
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.config import ConfigError, EngineConfig, EngineError, KVLayout, RequestSpec, Sampling, apply_overrides
from engine.config.errors import IntegrityError
from engine.kv.address_space import AddressSpace, aligned
from engine.kv.occupancy import occupancy
from engine.kv.pool import BlockPool, PoolExhausted
from engine.kv.ranges import DemandPaged, ReserveMax
from engine.start.build import build_engine
from engine.start.layouts import make_layout
from engine.start.prepare import prepare
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.serving import make_spec
from tests.row_maker import spooled

SIZE = 4  # tokens of a block
STRIPES, PAGE = 3, mmap.PAGESIZE


def space_of(ranges: int, length: int, blocks_a_page: int = 2, pages: int = 1) -> tuple[AddressSpace, torch.Tensor]:
    """Ranges over a tensor whose blocks are a part of the system's page; a page of the layout is so many of these."""
    block = PAGE // blocks_a_page
    space = AddressSpace(ranges, length, pages * PAGE)
    return space, space.zeros((STRIPES, ranges * length, block), 1, torch.uint8)


def demand(num_blocks: int, ranges: int = 4, length: int = 12, **how) -> tuple[DemandPaged, torch.Tensor]:
    space, data = space_of(ranges, length, **{k: how.pop(k) for k in ("blocks_a_page", "pages") if k in how})
    block_bytes = STRIPES * data.shape[2]
    return DemandPaged(num_blocks, SIZE, ranges, length, space=space, block_bytes=block_bytes, **how), data


def test_memory_is_there_once_it_is_written_to_and_gone_once_it_is_given_back() -> None:
    space, data = space_of(3, 8)
    assert space.resident_bytes() == 0
    data[:, 8:11] = 7  # three blocks of range 1, two pages in each stripe
    assert space.resident_bytes() == space.bytes_of(3) == 2 * STRIPES * PAGE
    space.unmap(1, 3)
    assert space.resident_bytes() == 0
    assert not data.any(), "what was given back reads as zeros"


def test_a_larger_page_is_mapped_as_a_whole() -> None:
    space, data = space_of(2, 12, pages=3)
    space.map(0, 0, 1)
    assert space.resident_bytes() == space.bytes_of(1) == STRIPES * 3 * PAGE
    space.map(0, 1, 6)
    assert space.resident_bytes() == STRIPES * 3 * PAGE, "it was there"
    space.map(0, 6, 7)
    assert space.resident_bytes() == space.bytes_of(12) == STRIPES * 6 * PAGE
    data[:, 12:13] = 7
    space.unmap(0, 7)
    assert int((data != 0).sum()) == STRIPES * data.shape[2], "the other range keeps its own"


@given(blocks=st.integers(1, 300), sizes=st.lists(st.sampled_from([64, 96, 1000, 2048, 4096, 10_240]), min_size=1))
def test_ranges_end_at_a_page_in_every_stripe(blocks: int, sizes: list[int]) -> None:
    length = aligned(blocks, sizes, 2 * PAGE)
    assert length >= blocks
    assert all(length * size % (2 * PAGE) == 0 for size in sizes)


def test_what_is_reserved_is_nobody_elses_and_growing_costs_nothing() -> None:
    pool = ReserveMax(20, SIZE, 2, 8)
    assert pool.cost(3) == 8
    table = pool.allocate(3, 0, 0)
    assert (pool.num_free, pool.num_used) == (12, 8)
    assert pool.cost(5, table[-1]) == 0
    assert pool.cost(6, table[-1]) > pool.num_blocks, "beyond its range"
    table += pool.allocate(5, 0, 3, table[-1])
    other = pool.allocate(1, 1, 0)
    pool.check_integrity([table, other])
    with pytest.raises(PoolExhausted):
        pool.allocate(1, 2, 0)
    pool.free(table, 0)
    assert pool.num_free == 12
    assert pool.memory_of(other) == 8


def test_pages_are_counted_kept_and_taken_over() -> None:
    pool, _ = demand(10)
    first = pool.allocate(3, 0, 0)  # two pages a stripe: four blocks of memory
    assert pool.num_used == 4
    assert pool.cost(1, first[-1]) == 0, "its page is there"
    first += pool.allocate(1, 0, 3, first[-1])
    pool.free(first, 0)
    assert (pool.num_used, pool.kept_bytes) == (0, 4 * pool.block_bytes)
    mapped = pool.mapped_bytes
    again = pool.allocate(2, 1, 0)
    assert pool.mapped_bytes == mapped, "the newcomer takes what is mapped"
    assert pool.num_used == 4
    pool.free(again, 1)
    one, two = pool.allocate(6, 2, 0), pool.allocate(4, 3, 0)
    assert pool.kept_bytes == 0
    pool.check_integrity([one, two])
    with pytest.raises(PoolExhausted):
        pool.allocate(1, 4, 0)


@given(seeds=st.lists(st.integers(0, 2**32 - 1), max_size=40), deferred=st.booleans(), pages=st.integers(1, 3))
def test_memory_adds_up_whatever_comes_and_goes(seeds: list[int], deferred: bool, pages: int) -> None:
    pool, data = demand(20, deferred=deferred, pages=pages)
    tables: dict[int, list[int]] = {}
    for number, seed in enumerate(seeds):
        dice = random.Random(seed)
        who = dice.choice([*tables, number])
        table = tables.get(who, [])
        if table and dice.random() < 0.4:
            pool.free(table, who)
            del tables[who]
        else:
            more = dice.randint(1, 4)
            after = table[-1] if table else -1
            if pool.cost(more, after) > pool.num_free:
                continue
            blocks = pool.allocate(more, who, len(table), after)
            data[:, blocks] = 1
            tables[who] = table + blocks
        pool.check_integrity(tables.values())
        assert pool.space.resident_bytes() <= pool.held_bytes + pool.kept_bytes <= 20 * pool.block_bytes
        if not deferred:
            assert pool.kept_bytes == 0
        parts = occupancy(pool, SIZE * sum(map(len, tables.values())), [SIZE * len(t) for t in tables.values()])
        assert sum(parts) == 20 * pool.block_bytes
        assert min(parts) >= 0


def test_a_table_that_is_not_contiguous_is_noticed() -> None:
    pool = ReserveMax(16, SIZE, 2, 8)
    table = pool.allocate(3, 0, 0)
    with pytest.raises(IntegrityError, match="not contiguous"):
        pool.check_integrity([table[::-1]])


def test_parts_of_a_paged_pool() -> None:
    pool = BlockPool(10, SIZE, block_bytes=40)
    pool.allocate(4, 0, 0)
    assert occupancy(pool, 9, [9]) == (90, 30, 40, 0, 240)


def config_of(**layout) -> EngineConfig:
    return EngineConfig(
        model="random:tiny", device="cpu", dtype="float32", threads=1, max_num_seqs=2, kv_blocks=layout.pop("blocks", 64),
        kv_layout=KVLayout(**layout), sampling=Sampling(ignore_eos=True), keep_text=False,
    )  # fmt: skip


def asked(*lengths: int) -> list[RequestSpec]:
    return [
        RequestSpec(request_id=str(n), prompt_token_ids=(7,) * tokens, max_tokens=8) for n, tokens in enumerate(lengths)
    ]


def test_what_the_pool_cannot_hold_is_refused_with_what_would_be_right() -> None:
    with pytest.raises(EngineError, match="reserve-max reserves 7 blocks of 16 tokens") as failed:
        prepare(make_spec(config_of(kind="reserve-max", blocks=6), asked(100, 3)))
    assert failed.value.field == "kv_blocks"
    assert "kv_blocks to at least 7, or kv_layout.max_tokens to 96" in failed.value.mend
    with pytest.raises(EngineError, match=r"pages of 512 KiB take as much as \d+ blocks") as failed:
        prepare(make_spec(config_of(page_kib=512, blocks=6), asked(20)))
    assert "kv_layout.page_kib lower" in failed.value.mend


def test_a_request_beyond_its_range_costs_nobody_else() -> None:
    prepared = prepare(make_spec(config_of(kind="reserve-max", max_tokens=32), asked(100, 3)))
    long, short = prepared.requests
    assert short.refusal is None
    assert long.refusal is not None
    assert long.refusal.field == "kv_layout.max_tokens"
    assert "at least 107" in long.refusal.mend


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kv_layout.page_kib": "5"}, "power of two"),
        ({"kv_layout.page_kib": "2"}, "greater than or equal to 4|at least 4|4 or more"),
        ({"kv_layout.max_tokens": "0"}, "2"),
        ({"kv_layout": "on", "prefix_sharing": "on"}, "shared block would have to lie in several"),
        ({"kv_layout.kind": "reserve-max", "prefix_sharing": "on"}, "prefix_sharing off"),
        ({"kv_layout.kind": "segmented"}, "reserve-max"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        apply_overrides(EngineConfig(), changes)


def test_a_gpu_has_no_pages_on_demand_and_says_so() -> None:
    prepared = prepare(make_spec(config_of(), asked(9)))
    with pytest.raises(EngineError, match="cuMemMap") as failed:
        make_layout(
            prepared.spec.engine,
            [prepared.model],
            None,
            torch.device("cuda"),
            prepared.requests,
            prepared.max_model_len,
        )
    assert failed.value.field == "kv_layout.kind"


@pytest.mark.parametrize("kind", ["demand-paged", "reserve-max", "paged"])
def test_every_step_says_what_memory_was_used_for(kind: str, tmp_path: Path) -> None:
    prepared = prepare(make_spec(config_of(kind=kind, blocks=40), asked(60, 40, 20)))
    with Recorder(tmp_path, "iterations", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    rows = spooled(tmp_path, "layout")
    steps = spooled(tmp_path, "iteration")
    assert [row["iteration"] for row in rows] == [row["iteration"] for row in steps]
    pool = prepared.num_blocks * prepared.layout.block_bytes
    parts = ("used_bytes", "internal_bytes", "reserved_bytes", "kept_bytes", "free_bytes")
    assert {sum(row[name] for name in parts) for row in rows} == {pool}
    assert [row["used_bytes"] for row in rows] == [
        row["kv_tokens"] * prepared.layout.block_bytes // 16 for row in steps
    ]
    if kind == "demand-paged":
        assert 0 < rows[0]["resident_bytes"] <= rows[0]["mapped_bytes"]
        assert sum(row["mapped_bytes"] for row in rows) < pool
    else:
        assert {row["resident_bytes"] for row in rows} == {None}
