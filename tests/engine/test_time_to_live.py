"""Pins of ended turns: what stays, for how long, who may take it, and whose turn goes first."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.config import (
    ConfigError,
    EngineConfig,
    PrefixSharing,
    RequestSpec,
    RunSpec,
    Sampling,
    TimeToLive,
    apply_overrides,
)
from engine.config.errors import EngineError, IntegrityError
from engine.kv.compute_rate import ComputeRate
from engine.kv.pool import BlockPool
from engine.request import Request
from engine.run_facts import summarise
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.time_to_live import Pins
from engine.scheduling.ttl import SAMPLED, TTLS, AdaptiveTime
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.time_to_live import make_time_to_live
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.prefix_scheduling import execute, make_scheduler, serve
from tests.engine.serving import make_spec
from tests.engine.test_prefix_cache import A, B, C
from tests.row_maker import spooled

D = range(400, 412)
S = 1_000_000_000


class Bench:
    """A scheduler with pins on a clock that stands still until it is set."""

    def __init__(self, asked: TimeToLive, *, blocks: int, **scheduler: object) -> None:
        self.now = 0
        self.scheduler: Scheduler = make_scheduler(blocks=blocks, **scheduler)  # type: ignore[arg-type]
        ttl = TTLS[asked.mode](asked, ComputeRate(lambda tokens, context: float(tokens)))
        self.pins = Pins(
            self.scheduler.pool,
            ttl,
            lambda: self.now,
            continued=[str(n) for n in range(10)],
            by_program=asked.program_fcfs,
        )
        self.scheduler.time_to_live = self.pins

    def serve(self, *requests: Request) -> None:
        serve(self.scheduler, requests)

    def why(self) -> list[str | None]:
        """Reasons of the pins that ended."""
        return [event.reason for event in self.pins.take_events() if event.action == "unpin"]


def turn(
    index: int, prompt: Sequence[int], *, of: Request | None = None, output: int = 1, arrival_s: float = 0
) -> Request:
    """A request; ``of``: the turn that it continues."""
    after = None if of is None else of.request_id
    spec = RequestSpec(request_id=str(index), prompt="-", max_tokens=output, after=after, continues=of is not None)
    known = [*(of.token_ids if of else ()), *prompt]
    return Request(index, spec, known, Sampling(), output, arrival_ns=round(arrival_s * S))


FIXED = TimeToLive(mode="fixed", ttl_s=2)


def test_a_pinned_turn_outlasts_others_that_need_the_room() -> None:
    """Two programs of three blocks each, a stranger of four, a pool of eight: the least recently used one would go."""
    found = {}
    for mode in ("fixed", "lru", "evict"):
        bench = Bench(FIXED.model_copy(update={"mode": mode}), blocks=8)
        first, second = turn(0, A), turn(1, B)
        bench.serve(first)
        stranger = Request(2, RequestSpec(request_id="x", prompt="-", max_tokens=1), [*C, *D[:3]], Sampling(), 1)
        bench.serve(stranger)
        bench.serve(second)
        bench.now = 1 * S
        back = turn(3, [7], of=first, arrival_s=1)
        bench.serve(back)
        found[mode] = back.cached_tokens
        if mode == "fixed":
            assert bench.why() == ["back"]
            assert bench.scheduler.pool.num_pinned == 3 + 3, "the second program's, and the first one's next turn"
    assert found == {"fixed": 12, "lru": 8, "evict": 0}, "the least recently used block is the last of the first turn"


def test_after_its_time_a_turn_is_the_first_to_be_evicted() -> None:
    bench = Bench(FIXED, blocks=7)
    early, late = turn(0, A), turn(1, B)
    bench.serve(early)
    bench.now = 1 * S
    bench.serve(late)
    bench.now = 2 * S + 1
    bench.serve(Request(2, RequestSpec(request_id="x", prompt="-", max_tokens=1), list(C), Sampling(), 1))
    assert bench.why() == ["ttl"]
    assert [bench.scheduler.prefixes._path(r, 3) != [] for r in (early, late)] == [True, True]
    bench.serve(Request(3, RequestSpec(request_id="y", prompt="-", max_tokens=1), list(D[:8]), Sampling(), 1))
    assert len(bench.scheduler.prefixes._path(late, 3)) == 3
    assert len(bench.scheduler.prefixes._path(early, 3)) < 3, "it was used last but one, and its time is over"


def test_a_turn_that_is_back_in_time_keeps_its_pin_while_it_waits() -> None:
    bench = Bench(FIXED, blocks=20, seqs=1)
    first, long = turn(0, A), turn(1, B, output=30)
    bench.serve(first)
    bench.scheduler.add(long)
    execute(bench.scheduler, bench.scheduler.plan())
    back = turn(2, [7], of=first, arrival_s=1)
    bench.scheduler.add(back)
    bench.now = 60 * S
    while back.end_reason is None:
        execute(bench.scheduler, bench.scheduler.plan())
    assert back.cached_tokens == 12
    assert bench.why() == ["back"]


def test_a_pool_full_of_pins_is_unpinned_by_force() -> None:
    """Nobody runs, all blocks are pinned for ever: the last program's go, and no more than are needed."""
    bench = Bench(FIXED.model_copy(update={"ttl_s": 86_400}), blocks=9)
    for index, prompt in enumerate((A, B, C)):
        bench.serve(turn(index, prompt, arrival_s=index))
    assert (bench.scheduler.pool.num_free, bench.scheduler.pool.num_used, bench.scheduler.pool.num_pinned) == (0, 0, 9)
    bench.serve(turn(3, D, arrival_s=4))
    assert bench.why() == ["forced"]
    assert len(bench.scheduler.prefixes._path(turn(8, A), 3)) == 3
    assert len(bench.scheduler.prefixes._path(turn(9, C), 3)) == 0


def test_a_younger_program_waits_for_memory_that_older_ones_hold_and_an_older_one_takes_it() -> None:
    bench = Bench(FIXED, blocks=11)
    old, young = turn(0, A, arrival_s=0), turn(1, B, arrival_s=1)
    bench.serve(old)
    bench.serve(young)
    running = turn(2, [*C[:7]], output=9, arrival_s=2)  # so that somebody is there who frees blocks
    bench.scheduler.add(running)
    execute(bench.scheduler, bench.scheduler.plan())
    newcomer = turn(3, D, arrival_s=3)
    bench.scheduler.add(newcomer)
    plan = bench.scheduler.plan()
    assert plan.admission_stop == "blocks"
    assert bench.why() == []
    execute(bench.scheduler, plan)
    bench.scheduler.remove(newcomer)
    back = turn(4, D, of=old, arrival_s=1)
    bench.scheduler.add(back)
    execute(bench.scheduler, bench.scheduler.plan())
    assert back.block_table or back.end_reason, "it has the place of its program, before the young one"
    assert bench.why() == ["forced", "back"]


def test_who_runs_takes_pinned_blocks_before_anybody_is_preempted() -> None:
    bench = Bench(FIXED, blocks=6)
    bench.serve(turn(0, A))
    growing = turn(1, B[:4], output=16)
    bench.serve(growing)
    assert growing.preemptions == 0
    assert bench.why() == ["forced"]


def test_the_turn_that_gives_up_while_it_waits_takes_its_pin_with_it() -> None:
    bench = Bench(FIXED, blocks=20)
    first = turn(0, A)
    bench.serve(first)
    back = turn(1, [7], of=first, arrival_s=1)
    bench.scheduler.add(back)
    bench.scheduler.remove(back)
    bench.scheduler.check_integrity()
    assert (bench.why(), bench.scheduler.pool.num_pinned) == (["cancelled"], 0)


@pytest.mark.parametrize("by_program", [True, False])
def test_a_late_turn_of_an_old_program_goes_first_by_program(by_program: bool) -> None:
    bench = Bench(TimeToLive(mode="lru", program_fcfs=by_program), blocks=30)
    first = turn(5, A, arrival_s=0)
    bench.serve(first)
    new, back = turn(1, B, arrival_s=1), turn(2, [7], of=first, arrival_s=2)
    bench.scheduler.add(new)
    bench.scheduler.add(back)
    assert bench.scheduler.waiting == ([back, new] if by_program else [new, back])


def adaptive(rate_tokens_per_s: float, **settings: float) -> AdaptiveTime:
    rate = ComputeRate(lambda tokens, context: float(tokens))
    rate.computed(rate_tokens_per_s, 1.0)
    return AdaptiveTime(TimeToLive(**settings), rate)  # type: ignore[arg-type]


def test_the_time_to_live_is_the_one_that_gains_most() -> None:
    """Tools take 1 s, and one in five 20 s: a second is worth holding a tenth of the pool, twenty are not."""
    ttl = adaptive(100.0)
    for duration in (1.0, 1.0, 20.0, 1.0, 1.0):
        ttl.observe("tool", duration)
    worth = ttl.choose("tool", 200, 0.1)
    assert worth.ttl_s == 1.0
    assert (worth.chance, worth.recompute_s) == (4 / 6, 2.0)
    assert worth.cost_s == pytest.approx(0.1 * 1.0)
    assert ttl.choose("tool", 2000, 0.1).ttl_s == 20.0, "twenty seconds of computing are worth it"
    assert ttl.choose("tool", 200, 1.0).ttl_s == 1.0
    assert ttl.choose("tool", 20, 1.0).ttl_s == 0.0, "not for 0.2 s"
    ttl.waited(10.0)
    assert ttl.choose("tool", 20, 1.0).ttl_s == 1.0, "who loses its blocks waits in the queue again"


def test_tools_that_are_not_known_yet_are_taken_for_exponential() -> None:
    ttl = adaptive(100.0, prior_s=3.0)
    assert sum(ttl.durations("tool")) / SAMPLED == pytest.approx(3.0, rel=0.1)
    ttl.observe("tool", 0.5)
    assert max(ttl.durations("tool")) == pytest.approx(0.5 * math.log(16))
    assert ttl.durations("another") == adaptive(100.0, prior_s=3.0).durations("another")


def test_durations_run_from_the_end_of_a_turn_to_the_arrival_of_the_next() -> None:
    bench = Bench(TimeToLive(), blocks=20)
    first = turn(0, A)
    bench.serve(first)
    bench.now = 5 * S
    bench.scheduler.add(turn(1, [7], of=first, arrival_s=4))
    assert list(bench.pins.ttl._seen[""]) == [4.0]


def test_a_pin_is_on_what_can_be_found_and_no_pinned_block_is_evicted() -> None:
    pool = BlockPool(4, 4)
    blocks = pool.allocate(2, 0, 0)
    with pytest.raises(IntegrityError, match="cannot be found"):
        pool.pin(blocks)
    pool.publish(blocks[0], 1)
    pool.pin(blocks[:1])
    pool.pin(blocks[:1])
    pool.free(blocks, 0)
    assert (pool.num_free, pool.num_used, pool.num_cached, pool.num_pinned) == (3, 0, 1, 1)
    with pytest.raises(IntegrityError, match="pinned"):
        pool.evict(blocks[0])
    assert pool.frees([blocks[:1]]) == 0
    assert pool.frees([blocks[:1], blocks[:1]]) == 1
    pool.unpin(blocks[:1])
    assert pool.num_free == 3, "another pin keeps it"
    pool.unpin(blocks[:1])
    assert pool.num_free == 4
    pool.check_integrity([])


ON = {"prefix_sharing": "on", "time_to_live": "on"}


@pytest.mark.parametrize(
    ("overrides", "field", "reason"),
    [
        ({"time_to_live": "on"}, "time_to_live", "set prefix_sharing on"),
        (ON | {"prefix_sharing.skip_prefill": "off"}, "time_to_live", "skip_prefill"),
        (ON | {"prefix_sharing.order": "grouped"}, "time_to_live", "program_fcfs"),
        (ON | {"placement.kind": "disaggregated", "device": "cpu"}, "time_to_live", "pool for each half"),
        (ON | {"policy": "padded-sorted"}, "policy", "by their length"),
        (ON | {"time_to_live.ttl_s": "0"}, "time_to_live.ttl_s", "above 0"),
    ],
    ids=["alone", "computes all", "grouped", "two pools", "by length", "no time"],
)
def test_what_does_not_go_with_it_is_refused_by_name(overrides: dict[str, str], field: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        apply_overrides(EngineConfig(), overrides)
    assert refused.value.field == field
    assert reason in str(refused.value)


def programs(count: int, turns: int, pause_s: float) -> list[RequestSpec]:
    """Programs of that many turns, all begun at once."""
    dice = random.Random(4)
    asked = []
    for n in range(count):
        for k in range(turns):
            asked.append(
                RequestSpec(
                    request_id=f"{n}-{k}",
                    prompt_token_ids=tuple(dice.randrange(8, 200) for _ in range(20 if k == 0 else 4)),
                    max_tokens=4,
                    after=f"{n}-{k - 1}" if k else None,
                    continues=k > 0,
                    arrival_ns=round(pause_s * S) if k else 0,
                )
            )
    return asked


def test_no_pin_outlives_a_run_that_ends_before_its_time_or_breaks(lettered, tmp_path: Path) -> None:
    _, directory = lettered
    config = EngineConfig(
        model=str(directory), device="cpu", dtype="float32", threads=1, block_size=4, kv_blocks=64,
        prefix_sharing=PrefixSharing(), time_to_live=FIXED, sampling=Sampling(ignore_eos=True), check_integrity=True,
    )  # fmt: skip
    for ends in ("stopped", "broken"):
        prepared = prepare(make_spec(config, programs(3, 2, pause_s=100.0)))
        with Recorder(tmp_path / ends, "full", clock := RunClock()) as recorder:
            engine = build_engine(prepared, recorder, clock)
            pool = engine.scheduler.pool

            def stop(ends: str = ends, pool: BlockPool = pool, engine=engine) -> bool:
                if pool.num_pinned and engine.totals.requests_ended == 3:
                    if ends == "broken":
                        raise RuntimeError("broken")
                    return True
                return False

            if ends == "broken":
                with pytest.raises(RuntimeError):
                    engine.run(prepared.requests, stop)
            else:
                engine.run(prepared.requests, stop)
        assert pool.num_pinned == 0
        engine.scheduler.time_to_live.check_integrity()
        assert summarise(engine, prepared, clock)["pins_end"] == 3
    rows = spooled(tmp_path / "stopped", "pin")
    assert [row["action"] for row in rows] == ["pin"] * 3 + ["unpin"] * 3
    assert [row["ttl_ns"] for row in rows] == [2 * S] * 3 + [None] * 3
    assert {(row["reason"], row["chance"]) for row in rows} == {(None, None), ("end", None)}
    assert rows[2]["pinned"] == sum(row["blocks"] for row in rows[:3])
    assert rows[-1]["pinned"] == 0
    assert {row["request"]: row["program"] for row in spooled(tmp_path / "stopped", "request")} == {
        n: n - n % 2 for n in range(6)
    }


def test_clients_requests_name_no_program(lettered, tmp_path: Path) -> None:
    _, directory = lettered
    config = EngineConfig(
        model=str(directory), device="cpu", dtype="float32", threads=1, block_size=4, kv_blocks=64,
        prefix_sharing=PrefixSharing(), time_to_live=FIXED,
    )  # fmt: skip
    prepared = prepare(RunSpec(run_id="test", scenario="test", engine=config, requests=(), served=True))
    with pytest.raises(EngineError, match="which program"):
        make_time_to_live(prepared, BlockPool(4, 4), RunClock())
