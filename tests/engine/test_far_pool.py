"""A far pool: which blocks move, what its books say, how parts of attention are merged, and what is refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from engine.attention.partial import Part, PartialAttention, merged
from engine.attention.shared import attend
from engine.config import ConfigError, EngineConfig, EngineError, FarPool, RequestSpec, Sampling, apply_overrides
from engine.config.errors import IntegrityError
from engine.kv.cache import KVCache
from engine.kv.copying import Link
from engine.kv.far import FarStore
from engine.kv.lending import LendingPool
from engine.request import Request
from engine.start.build import build_engine
from engine.start.prepare import prepare
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.spool import spool_path
from tests.engine.serving import Verdict, check_greedy, make_spec

CPU = torch.device("cpu")
SIZE = 4


def caches(near: int, far: int) -> tuple[KVCache, KVCache]:
    return tuple(KVCache(2, 2, 8, blocks, SIZE, torch.float32, CPU) for blocks in (near, far))  # type: ignore[return-value]


def pool_of(near: int, far: int, *requests: Request, link: Link | None = None) -> LendingPool:
    store = FarStore(*caches(near, far), link)
    store.begin(time.monotonic_ns, check=True)
    store.near.data.normal_()
    pool = LendingPool(store, SIZE, journal=[])
    pool.running = list(requests)
    return pool


def request(index: int, computed: int = 0) -> Request:
    spec = RequestSpec(request_id=str(index), prompt="-")
    return Request(index, spec, [0], Sampling(), 8, num_computed_tokens=computed)


def grow(pool: LendingPool, of: Request, blocks: int, *, fill: bool = True) -> None:
    of.block_table += pool.allocate(blocks, of.index, len(of.block_table))
    if fill:
        of.num_computed_tokens = len(of.block_table) * SIZE
    pool.check_integrity([r.block_table for r in pool.running])


def test_the_oldest_block_of_who_has_most_moves_with_its_bytes() -> None:
    long, short = request(0), request(1)
    pool = pool_of(5, 6, long, short)
    grow(pool, long, 4)
    grow(pool, short, 1)
    first, content = long.block_table[0], pool.store.near.data[:, :, :, long.block_table[0]].clone()
    grow(pool, short, 1)
    assert pool.lent(long.block_table) == 1
    assert pool.lent(short.block_table) == 0
    assert short.block_table[-1] == first, "the block that became free is the one that is given"
    assert torch.equal(pool.store.cache.data[:, :, :, long.block_table[0] - 5], content)
    [lending] = pool.store.take_lendings()
    assert (lending.request, lending.blocks, lending.copied_blocks, lending.far_blocks) == (0, 1, 1, 1)
    assert lending.bytes == pool.store.block_bytes == content.nbytes
    pool.free(long.block_table, 0)
    [back] = pool.store.take_lendings()
    assert (back.blocks, back.bytes, back.far_blocks) == (-1, 0, 0)


def test_a_prompt_longer_than_the_pool_begins_in_the_far_pool() -> None:
    long = request(0)
    pool = pool_of(3, 6, long)
    grow(pool, long, 8, fill=False)
    assert [block >= 3 for block in long.block_table] == [True] * 5 + [False] * 3
    assert pool.far_used == 5
    [lending] = pool.store.take_lendings()
    assert (lending.blocks, lending.copied_blocks, lending.bytes) == (5, 0, 0), "nothing was computed yet"
    grow(pool, long, 1)
    assert pool.lent(long.block_table) == 6
    pool.free(long.block_table, 0)
    assert (pool.num_free, pool.far_used, len(pool.journal or [])) == (9, 0, 9 + 2 + 9)


def test_a_shared_block_moves_for_all_who_share_it() -> None:
    a, b = request(0), request(1)
    pool = pool_of(3, 4, a, b)
    grow(pool, a, 2)
    pool.publish(a.block_table[0], 77)
    b.block_table, b.num_computed_tokens = [a.block_table[0]], SIZE
    pool.share(a.block_table[0], 1, 0)
    renumbered = []
    pool.moved = lambda *numbers: renumbered.append(numbers)
    before = a.block_table[0]
    grow(pool, b, 2)
    assert a.block_table[0] == b.block_table[0] >= 3
    assert pool.ref_count(a.block_table[0]) == 2
    assert renumbered == [(before, a.block_table[0])]
    assert {(row.request, row.far_blocks) for row in pool.store.take_lendings()} == {(0, 1), (1, 1)}


def test_what_nobody_holds_gives_way_before_anything_moves() -> None:
    gone, here = request(0), request(1)
    pool = pool_of(2, 2, gone, here)
    grow(pool, gone, 2)
    for place, block in enumerate(gone.block_table):
        pool.publish(block, place)
    pool.free(gone.block_table, 0)
    gone.block_table = []
    lost: list[int] = []
    pool.evicted = lost.append
    grow(pool, here, 1)
    assert len(lost) == 1
    assert pool.far_used == 0


def test_books_of_two_pools_notice_what_is_wrong() -> None:
    one = request(0)
    pool = pool_of(2, 2, one)
    grow(pool, one, 3)
    one.block_table[0], one.block_table[2] = one.block_table[2], one.block_table[0]
    with pytest.raises(IntegrityError, match="before those of the far pool"):
        pool.check_integrity([one.block_table])


def test_a_block_that_arrives_with_other_bytes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = request(0)
    pool = pool_of(2, 2, one)
    grow(pool, one, 2)
    copier = pool.store._copier
    monkeypatch.setattr(copier, "_copy_memory", lambda ticket: None)
    with pytest.raises(IntegrityError, match="arrived in the far pool with other bytes"):
        grow(pool, one, 1)


@torch.inference_mode()
def test_parts_of_attention_are_merged_exactly() -> None:
    torch.manual_seed(0)
    heads, tokens, keys = (6, 2, 8), 5, 19
    near, far = caches(4, 4)
    k, v = torch.randn(2, keys, 2, 8)
    q = torch.randn(tokens + 1, 6, 8)
    bound = 2 * SIZE
    table, there = [2, 0, 3], [3, 1]
    for cache, blocks, part in ((far, there, slice(0, bound)), (near, table, slice(bound, keys))):
        slots = torch.tensor([blocks[p // SIZE] * SIZE + p % SIZE for p in range(part.stop - part.start)])
        cache.store(1, slots, k[part], v[part])
    parts = []
    for cache, blocks, seen, causal in ((near, table, keys - bound, True), (far, there, bound, False)):
        attention = PartialAttention(cache, *heads)
        attention.begin([Part(0, tokens, blocks, seen, causal), Part(tokens, 1, blocks, seen - (1 if causal else 0))])
        parts.append(attention.forward(1, q))
    out = merged(*parts)
    for row in range(tokens + 1):
        visible = keys - (tokens - 1 - row) if row < tokens else keys - 1
        grouped = q[row].view(1, 2, 3, 8)
        whole, _ = attend(grouped, *(x[None, :visible].transpose(1, 2) for x in (k, v)), None)
        torch.testing.assert_close(out[row], whole.reshape(6, 8), rtol=1e-5, atol=1e-6)


def test_a_link_takes_its_time_and_hides_what_went_on_beside() -> None:
    pool = pool_of(1, 1, link=Link(0.004, 1e9))
    store = pool.store
    begun = store.clock()
    waited = store.wait(begun, 2, 1_000_000)
    assert waited >= 8_900_000
    assert store.wait(begun, 2, 1_000_000) == 0, "that long ago it was due"


def test_a_request_longer_than_the_kv_pool_is_served_and_recorded(lettered, tmp_path: Path) -> None:
    """And refused without a far pool, naming what would be right."""
    model, directory = lettered
    asked = [RequestSpec(request_id="long", prompt_token_ids=tuple(range(8, 108)), max_tokens=8)]
    asked += [RequestSpec(request_id=str(n), prompt_token_ids=(9, n + 10), max_tokens=6) for n in range(3)]
    config = EngineConfig(
        model=str(directory), device="cpu", dtype="float32", threads=1, block_size=8, kv_blocks=6, check_integrity=True,
        sampling=Sampling(ignore_eos=True), far_pool=FarPool(blocks=16, link_latency_us=1000.0),
    )  # fmt: skip
    prepared = prepare(make_spec(config, asked))
    assert "emulated link" in prepared.notices
    assert prepared.kv_capacity_tokens == 22 * 8
    with Recorder(tmp_path, "full", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    assert sum((check_greedy(model, r) for r in prepared.requests), Verdict()).tokens == 8 + 3 * 6
    told = engine.executor.cache.far.describe()  # type: ignore[union-attr]
    assert told["far_keys"] > told["near_keys"] > 0
    assert told["far_link_s"] > 0
    assert told["far_sent_bytes"] > told["far_moved_bytes"] > 0
    assert all(spool_path(tmp_path, row).stat().st_size > 0 for row in ("far", "lending"))
    for update, field in (({"far_pool": None}, "kv_blocks"), ({"far_pool": FarPool(blocks=7)}, "far_pool.blocks")):
        [refusal] = [
            r.refusal for r in prepare(make_spec(config.model_copy(update=update), asked)).requests if r.refusal
        ]
        assert refusal.field == field
    assert "at least 8" in refusal.mend


REFUSED = {
    "far_pool.blocks=0": "at least 1",
    "far_pool.link_gb_per_s=0": "above 0",
    "far_pool.link_latency_us=-1": "at least 0",
    "far_pool=on device=cuda": "set device to cpu",
    "far_pool=on attention_backend=native": "needs attention_backend gathered",
    "far_pool=on overlap=on": "set it to off",
    "far_pool=on prefix_sharing=on prefix_sharing.attention=one-level": "prefix_sharing.attention",
    "far_pool=on speculation=on speculation.verification=padded": "set it to ragged",
    "far_pool=on speculation=on speculation.proposer=draft-model speculation.draft_model=random:tiny": "draft-model",
    "far_pool=on kv_quantization=on kv_quantization.codec=kivi": "exact window",
    "far_pool=on kv_quantization=on kv_quantization.prefill=exact": "prefill to stored",
    "far_pool=on preemption=on": "preemption.mode swap",
    "far_pool=on kv_layout=on": "kv_layout",
    "far_pool=on placement=on threads=2 device=cpu": "placement",
    "far_pool=on prefix_sharing=on kv_tiers=on": "kv_tiers",
    "far_pool=on prefix_sharing=on time_to_live=on": "time_to_live",
}


@pytest.mark.parametrize("changes", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(changes: str) -> None:
    with pytest.raises(ConfigError) as refused:
        apply_overrides(EngineConfig(), dict(change.split("=", 1) for change in changes.split()))
    assert REFUSED[changes] in str(refused.value)
    assert "far_pool" in str(refused.value)


def test_a_far_pool_that_the_host_cannot_hold_is_refused(lettered, tmp_path: Path) -> None:
    _, directory = lettered
    config = EngineConfig(
        model=str(directory),
        device="cpu",
        dtype="float32",
        kv_blocks=4,
        block_size=1024,
        far_pool=FarPool(blocks=2**31 - 1),
    )
    prepared = prepare(make_spec(config, [RequestSpec(request_id="0", prompt_token_ids=(8, 9), max_tokens=2)]))
    with (
        pytest.raises(EngineError, match="far pool needs") as refused,
        Recorder(tmp_path, "off", clock := RunClock()) as r,
    ):
        build_engine(prepared, r, clock)
    assert refused.value.field == "far_pool.blocks"
