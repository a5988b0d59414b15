"""Swapping preempted requests to host memory changes no token and no byte, whatever else is on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.block_table import blocks_for
from engine.config import (
    EngineConfig,
    KVQuantization,
    Preemption,
    PrefixSharing,
    RequestSpec,
    Sampling,
)
from engine.scheduling.policies import POLICIES
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.sizing import Room
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.drawn import drawn_chunking, drawn_guessing
from tests.engine.serving import Verdict, check_greedy, make_spec
from tests.engine.test_kv_tokens import check_alone
from tests.examples import examples

SWAPS = st.builds(
    Preemption,
    mode=st.sampled_from(["swap", "swap", "swap", "recompute"]),
    copies=st.sampled_from(["group", "block"]),
    asynchronous=st.sampled_from([True, True, False]),
    keep_copy=st.sampled_from([True, False]),
    host_mib=st.sampled_from([64.0, 64.0, 0.02]),
    priorities=st.sampled_from(["fixed", "random", "markov"]),
    priority_every=st.integers(1, 12),
)
CODECS = {
    "full precision": None,
    "int8": KVQuantization(codec="int8"),
    "int4": KVQuantization(codec="int4", group=8, rotate=False, centre=False),
    "fp8": KVQuantization(codec="fp8"),
    "kivi": KVQuantization(codec="kivi", residual=8, group=4),
}


def crowd(seed: int) -> list[RequestSpec]:
    """Requests that come at once or nearly so, some with a common beginning, some after another or going on
    where it ended, some given up."""
    dice = random.Random(seed)
    stem = [dice.randrange(8, 200) for _ in range(dice.choice([0, 6, 20]))]
    asked = []
    for index in range(dice.randint(3, 7)):
        after = dice.randrange(index) if index and dice.random() < 0.3 else None
        prompt = stem[: dice.choice([0, len(stem)])] + [dice.randrange(8, 200) for _ in range(dice.randint(1, 24))]
        asked.append(
            RequestSpec(
                request_id=str(index),
                prompt_token_ids=tuple(prompt * dice.choice([1, 1, 2])),
                max_tokens=dice.randint(4, 40),
                priority=dice.randint(0, 1),
                arrival_ns=dice.choice([0, 0, dice.randrange(10_000_000)]),
                after=None if after is None else str(after),
                continues=after is not None and dice.random() < 0.7,
                cancel_after_ns=dice.randrange(40_000_000) if dice.random() < 0.15 else None,
            )
        )
    return asked


def serve(config: EngineConfig, asked, run_dir: Path, spare: int):
    """Serve from a pool that holds the longest request and that many percent more, and hold every book to its balance.
    Returns what was prepared and the engine."""
    prepared = prepare(make_spec(config, asked))
    longest = max(blocks_for(r.most_computed_tokens, config.block_size) for r in prepared.servable)
    room = Room(longest + longest * spare // 200, None if prepared.tails is None else 3)
    prepared = replace(prepared, pool=replace(prepared.pool, taken=room))
    with Recorder(run_dir, config.recording, clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0, "blocks left behind"
    assert not engine.scheduler.preemption.in_transit()
    assert all(r.end_reason is not None for r in prepared.requests), "a request was lost"
    return prepared, engine


def check_tokens(model, prepared) -> None:
    """Every token is the one that the request gets alone."""
    if prepared.codec is None:
        verdict = sum((check_greedy(model, r) for r in prepared.requests), Verdict())
        assert verdict.ties <= max(1, verdict.tokens // 1000)
    else:
        verdict = sum((check_alone(prepared, r) for r in prepared.requests), Verdict())
        assert verdict.ties <= max(1, verdict.tokens // 100)


@given(data=st.data())
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_with_swapping_changes_a_token(data: st.DataObject, lettered, tmp_path: Path) -> None:
    model, directory = lettered
    block_size = data.draw(st.sampled_from([4, 8]), label="block_size")
    asked = crowd(data.draw(st.integers(0, 2**32 - 1), label="workload"))
    swaps = data.draw(SWAPS, label="preemption")
    if swaps.swaps:  # slow copies are seen from several iterations
        link = data.draw(st.none() | st.sampled_from([1.0, 10.0]), label="link_mb_per_s")
        swaps = swaps.model_copy(update={"link_mb_per_s": link, "link_launch_us": 1.0})
    speculation = data.draw(st.none() | drawn_guessing(6), label="speculation")
    least = 1 + (speculation.k if speculation else 0)
    policies = sorted(set(POLICIES) - ({"static", "padded", "padded-sorted"} if swaps.redraws else set()))
    codec = CODECS[data.draw(st.sampled_from(sorted(CODECS)), label="codec")]
    config = EngineConfig(
        model=str(directory),
        device="cpu",
        dtype="float32",
        threads=1,
        block_size=block_size,
        kv_blocks=512,
        policy=data.draw(st.sampled_from(policies), label="policy"),
        chunked_prefill=data.draw(drawn_chunking(least), label="chunked_prefill"),
        prefix_sharing=data.draw(
            st.none() | st.builds(PrefixSharing, share_memory=st.booleans(), wait_in_flight=st.booleans()),
            label="prefix_sharing",
        ),
        speculation=speculation,
        kv_quantization=codec,
        preemption=swaps,
        overlap=data.draw(st.sampled_from(["on", "off"]), label="overlap"),
        max_num_seqs=data.draw(st.integers(2, 6), label="max_num_seqs"),
        sampling=Sampling(ignore_eos=True),
        check_integrity=True,
        recording=data.draw(st.sampled_from(["full", "off"]), label="recording"),
    )
    spare = data.draw(st.integers(0, 100), label="spare blocks, % of the longest request's")
    prepared, _ = serve(config, asked, tmp_path, spare)
    check_tokens(model, prepared)
