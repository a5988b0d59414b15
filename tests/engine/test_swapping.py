"""Swapping, part by part: blocks kept together, host memory, copies, the conflict set, and priorities that change."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.config import (
    ConfigError,
    EngineConfig,
    EngineError,
    PrefixSharing,
    RequestSpec,
    RunSpec,
    Sampling,
    apply_overrides,
)
from engine.failures import labels_of_summary
from engine.kv.copying import Copier, Link, pieces, runs
from engine.kv.free_blocks import LargestRun
from engine.kv.host import HostPool
from engine.kv.pool import BlockPool
from engine.kv.prefix import PrefixCache
from engine.request import Request
from engine.scheduling.policies import POLICIES
from engine.scheduling.policies.base import Limits
from engine.scheduling.priorities import STARVING, Priorities, sessions_of
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.swap import Swap
from engine.start.build import build_engine
from engine.start.prepare import prepare
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.serving import make_spec
from tests.engine.test_scheduler import execute
from tests.row_maker import spooled

SIZE = 4  # tokens of a block
STRIPES, WIDTH = 3, 8  # of the store that these tests copy


@given(steps=st.lists(st.integers(0, 2**32 - 1), max_size=60))
def test_runs_of_free_blocks_are_whole_and_nothing_is_lost(steps: list[int]) -> None:
    free, held, everything = LargestRun(24), list[int](), set(range(24))
    for step in steps:
        dice = random.Random(step)
        if held and dice.random() < 0.5:
            free.add(held.pop(dice.randrange(len(held))))
        elif len(free):
            taken = free.take(dice.randint(1, len(free)), dice.choice([-1, *held]))
            assert len(set(taken)) == len(taken)
            assert not set(taken) & set(held)
            held += taken
        lying = [block for first, length in free.runs for block in range(first, first + length)]
        assert set(lying) == everything - set(held)
        assert len(lying) == len(free)
        assert all(a + n < b for (a, n), (b, _) in pairwise(free.runs)), "runs that touch"


def test_a_table_is_served_from_the_largest_run_and_grows_where_it_ends() -> None:
    free = LargestRun(32)
    first = free.take(4, -1, grow=3)
    second = free.take(4, -1, grow=40)
    assert first == [0, 1, 2, 3]
    assert second == [7, 8, 9, 10], "behind what the first may still need"
    third = free.take(2, -1)
    assert third[0] == 11 + (21 - 2) // 2, "nobody keeps more than half of what is left over"
    assert free.take(2, first[-1]) == [4, 5]
    assert free.take(1, second[-1]) == [11]


def host_of(store: torch.Tensor, blocks: int) -> HostPool:
    return HostPool(blocks, SIZE, 0, [store], [])


def test_neighbours_are_one_copy_and_every_byte_arrives() -> None:
    device = torch.randint(0, 256, (STRIPES, 32, WIDTH), dtype=torch.uint8)
    before = device.clone()
    table, host = [3, 4, 5, 6, 20, 21, 9, 10], HostPool(8, SIZE, 0, [device], [])
    assert host.extend(0, 8)
    there = host.copy_of(0).table
    for grouped, copies in ((True, 3), (False, 8)):
        moved = runs(table, there, grouped=grouped)
        assert len(moved) == copies
        pairs = [(device, host.stores[0])]
        copier = Copier(pairs, asynchronous=False)
        out = copier.start(pieces(pairs, moved), to_host=True)
        assert len(out.pieces) == copies * STRIPES
        assert out.nbytes == len(table) * STRIPES * WIDTH
        device[:, table] = 0
        copier.start(pieces(pairs, moved), to_host=False)
        assert torch.equal(device, before)
        host.stores[0].zero_()


def test_kept_copies_give_way_and_swapped_ones_never_do() -> None:
    host = host_of(torch.zeros((1, 8, 4), dtype=torch.uint8), 4)
    assert host.extend(0, 2)
    assert host.extend(1, 2)
    host.copy_of(1).tokens = 2 * SIZE  # swapped out; 0 is only kept
    assert not host.extend(2, 3)
    assert host.extend(2, 2)
    assert host.copy_of(0) is None
    host.copy_of(2).tokens = 2 * SIZE
    assert not host.extend(1, 3)
    assert len(host.copy_of(1).table) == 2
    host.check_integrity()


def make_request(index: int, tokens: list[int], output: int = 8) -> Request:
    return Request(index, RequestSpec(request_id=str(index), prompt="-", max_tokens=output), tokens, Sampling(), output)


class Bench:
    """A pool with bytes in it, and requests that hold them; no model computes."""

    def __init__(self, blocks: int = 16, host: int = 16, *, sharing: bool = False, keep: bool = True, link=None, **how):
        self.store = torch.zeros((STRIPES, blocks, WIDTH), dtype=torch.uint8)
        self.pool = BlockPool(blocks, SIZE, free=LargestRun(blocks))
        self.host = host_of(self.store, host)
        pairs = [(self.store, self.host.stores[0])]
        copier = Copier(pairs, link=link, asynchronous=how.pop("asynchronous", False))
        self.swap = Swap(
            self.pool, self.host, copier, [self.store], [], grouped=True, keep=keep, window=None, clock=RunClock().now_ns,
            continued=how.get("continued"), check=True,
        )  # fmt: skip
        prefixes = PrefixCache(self.pool, PrefixSharing(), self.copy_block) if sharing else None
        policy = POLICIES["stall-free"](Limits(64, None, 64))
        self.scheduler = Scheduler(self.pool, policy, 8, prefixes, preemption=self.swap)

    def copy_block(self, source: int, destination: int) -> None:
        self.store[:, destination] = self.store[:, source]

    def step(self) -> None:
        """What the engine does with a plan: every computed token writes its block, and 1 is drawn."""
        plan = self.scheduler.plan()
        self.scheduler.check_integrity()
        sampled = [part.request for part in plan.slices if part.samples]
        for part in plan.slices:
            for place in range(part.context_len, part.context_len + part.tokens):
                self.store[:, part.request.block_table[place // SIZE], place % SIZE] = part.request.token_ids[place]
        self.scheduler.commit(plan)
        for request in sampled:
            request.token_ids.append(1)
        self.scheduler.check_integrity()

    def written(self, request: Request) -> list[int]:
        """The request's tokens as the pool's bytes say."""
        places = range(request.num_computed_tokens)
        return [int(self.store[1, request.block_table[p // SIZE], p % SIZE]) for p in places]


def test_only_what_is_new_travels_the_second_time() -> None:
    bench = Bench()
    request = make_request(0, [5] * 14, output=20)
    bench.scheduler.add(request)
    bench.step()
    for _ in range(2):
        bench.scheduler.preempt(request)
        assert bench.pool.num_used == 0
        bench.step()
    out_first, _, out_again, _ = bench.swap.take_moves()
    assert (out_first.blocks, out_first.blocks_kept) == (4, 0)
    assert (out_again.blocks, out_again.blocks_kept) == (1, 3), "whole blocks were there already"
    assert out_first.copies == STRIPES
    assert bench.written(request) == [5] * 14 + [1, 1]


def test_blocks_under_way_are_not_reused_until_they_have_landed() -> None:
    bench = Bench(blocks=5, asynchronous=True, link=Link(0.3, 1e9))
    first, second = make_request(0, [5] * 12), make_request(1, [6] * 12)
    bench.scheduler.add(first)
    bench.step()
    held = set(first.block_table)
    bench.scheduler.preempt(first)
    assert bench.pool.num_free == 2, "three blocks belong to the copy"
    bench.scheduler.check_integrity()
    assert set(bench.pool.allocate(2, 9, 0)).isdisjoint(held)
    with pytest.raises(Exception, match="1 blocks asked for, 0 free"):
        bench.pool.allocate(1, 9, 2)
    assert bench.swap.free_some()
    assert bench.pool.num_free == 3
    [move] = bench.swap.take_moves()
    assert move.waited_ns > 0
    assert second.num_computed_tokens == 0
    bench.swap.close()


def test_who_comes_back_is_in_no_plan_until_its_bytes_are_there() -> None:
    bench = Bench(blocks=12, asynchronous=True, link=Link(0.02, 1e9))
    back, other = make_request(0, [5] * 12), make_request(1, [6] * 12, output=200)
    for request in (back, other):
        bench.scheduler.add(request)
    bench.step()
    bench.scheduler.preempt(back)
    before = len(other.token_ids)
    bench.step()
    assert back.arriving
    assert len(other.token_ids) == before + 1, "the other goes on meanwhile"
    bench.scheduler.remove(other)
    bench.step()  # nothing else is left to do: it waits
    assert not back.arriving
    assert bench.written(back) == [5] * 12 + [1]
    bench.swap.close()


def test_a_shared_block_stays_with_its_other_owner() -> None:
    bench = Bench(sharing=True)
    stem = list(range(10, 18))
    owner, leaver = make_request(0, [*stem, 3, 3], output=30), make_request(1, [*stem, 4, 4, 4, 4, 4], output=30)
    bench.scheduler.add(owner)
    bench.step()
    bench.scheduler.add(leaver)
    bench.step()
    shared = owner.block_table[:2]
    assert leaver.block_table[:2] == shared
    assert bench.pool.num_shared == 2
    bench.scheduler.preempt(leaver)
    assert owner.block_table[:2] == shared
    assert [bench.pool.ref_count(block) for block in shared] == [1, 1]
    assert bench.written(owner) == owner.token_ids[: owner.num_computed_tokens]
    bench.step()
    assert leaver.block_table[:2] == shared, "it shares again instead of bringing copies"
    assert bench.written(leaver) == leaver.token_ids[: leaver.num_computed_tokens]
    back = bench.swap.take_moves()[-1]
    assert (back.direction, back.blocks) == ("in", 1), "what the pool still has is not copied in"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_next_turn_takes_over_what_the_last_one_computed(asynchronous: bool) -> None:
    bench = Bench(asynchronous=asynchronous, continued={"0": 1})
    turn = make_request(0, [5] * 14, output=4)
    bench.scheduler.add(turn)
    for _ in range(4):
        bench.step()
    turn.end_reason = "length"
    bench.scheduler.remove(turn)
    bench.swap.wait()
    assert bench.pool.num_used == 0
    after = make_request(1, [*turn.token_ids, 7, 7, 7], output=4)
    bench.scheduler.add(after)
    while len(after.token_ids) == after.num_prompt_tokens:
        bench.step()
    kept, back = bench.swap.take_moves()
    assert (kept.direction, kept.request, kept.blocks) == ("out", 0, 4)
    assert (back.direction, back.request, back.tokens) == ("in", 1, 16)
    assert bench.written(after) == after.token_ids[: after.num_computed_tokens]
    bench.scheduler.remove(after)
    assert bench.host.num_free == bench.host.num_blocks
    bench.swap.close()


def test_what_a_turn_left_gives_way_to_who_has_to_leave() -> None:
    bench = Bench(host=4, continued={"0": 1})
    turn, other = make_request(0, [5] * 14, output=4), make_request(2, [6] * 14)
    bench.scheduler.add(turn)
    bench.step()
    turn.end_reason = "length"
    bench.scheduler.remove(turn)
    bench.scheduler.add(other)
    bench.step()
    assert bench.scheduler.preempt(other)
    after = make_request(1, [*turn.token_ids, 7], output=4)
    assert bench.swap.tokens_of(after) == 0, "its copy is gone, and it is computed"
    bench.scheduler.check_integrity()


def test_without_room_in_host_memory_a_request_is_computed_again() -> None:
    bench = Bench(host=2)
    request = make_request(0, [5] * 14)
    bench.scheduler.add(request)
    bench.step()
    assert not bench.scheduler.preempt(request)
    assert bench.swap.describe()["swap_fallbacks"] == 1
    assert bench.swap.take_moves() == []
    bench.step()
    assert bench.written(request) == [5] * 14 + [1]


def test_an_ended_request_leaves_nothing_in_host_memory() -> None:
    bench = Bench(asynchronous=True, link=Link(0.05, 1e9))
    request = make_request(0, [5] * 14)
    bench.scheduler.add(request)
    bench.step()
    bench.scheduler.preempt(request)
    bench.scheduler.remove(request)  # cancelled while it was being copied
    assert bench.host.num_free == bench.host.num_blocks
    assert bench.pool.num_used == 0
    bench.scheduler.check_integrity()
    bench.swap.close()


def priorities(**changes) -> Priorities:
    return Priorities(**({"markov": False, "levels": 4, "every": 5, "seed": 7, "sessions": {}} | changes))


def levels(drawn: Priorities, request: Request, iterations: int) -> list[int]:
    seen = []
    for _ in range(iterations):
        if drawn.next_iteration([request], []):
            seen.append(request.level)
    return seen


@pytest.mark.parametrize("markov", [False, True])
def test_levels_follow_the_seed_and_the_session_alone(markov: bool) -> None:
    one, other = priorities(markov=markov), priorities(markov=markov)
    a, b = make_request(3, [1]), make_request(3, [1])
    other.next_iteration([make_request(8, [1])], [])  # whoever else is there
    first = levels(one, a, 200)
    assert first[:39] == levels(other, b, 199)[:39]
    assert set(first) == {0, 1, 2, 3}
    assert levels(priorities(markov=markov, seed=8), make_request(3, [1]), 200) != first
    if markov:
        assert max(abs(x - y) for x, y in pairwise(first)) == 1


def test_nobody_waits_for_more_draws_than_the_bound() -> None:
    drawn, request, rival = priorities(every=1, levels=2), make_request(0, [1]), make_request(1, [1])
    for _ in range(STARVING):
        drawn.next_iteration([rival], [request])
    assert request.level == 2
    assert rival.level < 2, "it goes before everybody who has a place"


@pytest.mark.parametrize("policy", ["chunk-only", "stall-free", "orca"])
def test_priorities_that_change_faster_than_a_prompt_is_computed_let_everybody_end(policy: str) -> None:
    """Nothing is kept: a prompt that is thrown out is begun again."""
    pool = BlockPool(12, SIZE)
    limits = Limits(SIZE, None, 64)
    scheduler = Scheduler(pool, POLICIES[policy](limits), 2, priorities=priorities(every=1))
    requests = [make_request(n, [5] * 24, output=6) for n in range(4)]
    for request in requests:
        scheduler.add(request)
    plans = 0
    while scheduler.has_work:
        execute(scheduler, scheduler.plan())
        plans += 1
        assert plans < 1000, "prompts are begun again for ever"
    assert any(r.preemptions for r in requests), "this proves little"


def test_turns_of_a_conversation_are_one_session() -> None:
    after = {0: None, 1: None, 2: "0", 3: "2", 4: "1"}
    asked = [
        Request(i, RequestSpec(request_id=str(i), prompt="-", after=name), [1], Sampling(), 1)
        for i, name in after.items()
    ]
    assert sessions_of(asked) == {0: 0, 1: 1, 2: 0, 3: 0, 4: 1}


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        ({"prefix_sharing.admission": "memory", "preemption": "on"}, "preemption", "prefix_sharing.admission memory"),
        (
            {"prefix_sharing.order": "grouped", "preemption.priorities": "random"},
            "preemption",
            "prefix_sharing.order grouped",
        ),
        ({"policy": "static", "preemption.priorities": "markov"}, "policy", "Policy static finishes a batch"),
        ({"preemption.mode": "recompute", "preemption.link_mb_per_s": "100"}, "preemption", "link_mb_per_s"),
        ({"preemption.link_mb_per_s": "0"}, "preemption.link_mb_per_s", "too small"),
        ({"preemption.host_mib": "0"}, "preemption.host_mib", "too small"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(overrides: dict[str, str], field: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        apply_overrides(EngineConfig(), overrides)
    assert caught.value.field == field


def tight(**changes: str) -> EngineConfig:
    base = {
        "model": "random:tiny", "device": "cpu", "dtype": "float32", "kv_blocks": "14", "block_size": "4",
        "check_integrity": "on", "sampling.ignore_eos": "on",
    }  # fmt: skip
    return apply_overrides(EngineConfig(), base | changes)


def crowd() -> list[RequestSpec]:
    return [RequestSpec(request_id=str(n), prompt_token_ids=(n + 1, 2, 3) * 3, max_tokens=24) for n in range(5)]


def test_host_memory_too_small_for_one_block_is_refused_with_what_it_takes() -> None:
    prepared = prepare(make_spec(tight(**{"preemption.host_mib": "0.0001"}), crowd()))
    with pytest.raises(EngineError, match="does not hold one block of 4 tokens") as caught:
        build_engine(prepared, None, RunClock())  # type: ignore[arg-type]
    assert caught.value.field == "preemption.host_mib"


def test_a_run_for_clients_has_host_memory_for_who_may_come(tmp_path: Path) -> None:
    spec = RunSpec(run_id="test", scenario="test", engine=tight(preemption="on"), requests=(), served=True)
    prepared = prepare(spec)
    with Recorder(tmp_path, "off", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
    assert engine.executor.cache.host.num_blocks >= prepared.num_blocks


@pytest.mark.parametrize("recording", ["full", "iterations", "off"])
def test_rows_say_what_was_copied_and_nothing_where_nothing_is_recorded(recording: str, tmp_path: Path) -> None:
    prepared = prepare(make_spec(tight(recording=recording, preemption="on"), crowd()))
    with Recorder(tmp_path, recording, clock := RunClock()) as recorder:  # type: ignore[arg-type]
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    totals = engine.scheduler.preemption.describe()
    assert totals["swaps_out"] > 0
    rows = spooled(tmp_path, "swap") if recording != "off" else []
    assert sum(row["copies"] for row in rows) == (totals["swap_copies"] if rows else 0)
    assert len(rows) == (0 if recording == "off" else totals["swaps_out"] + totals["swaps_in"] + totals["swaps_ahead"])
    for row in rows:
        assert 0 <= row["asked_ns"] <= row["start_ns"] <= row["end_ns"]
        assert row["copies"] == 0 or row["bytes"] > 0


def test_a_run_that_found_no_room_in_host_memory_is_labelled() -> None:
    assert labels_of_summary({"swap_fallbacks": 2}) == ["host memory full"]
    assert labels_of_summary({"swap_fallbacks": 0.0}) == labels_of_summary({}) == []
