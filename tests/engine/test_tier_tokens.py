"""Keeping evicted prefix blocks in host memory and on disk, and pinning those of ended turns, changes no token and no
byte, whatever else is on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.block_table import blocks_for
from engine.config import EngineConfig, KVTiers, Preemption, PrefixSharing, RequestSpec, Sampling, TimeToLive
from engine.scheduling.policies import POLICIES
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.sizing import Room
from telemetry.clock import RunClock
from telemetry.folder import TIERS_FOLDER
from telemetry.recorder import Recorder
from tests.engine.drawn import drawn_chunking, drawn_guessing
from tests.engine.serving import make_spec
from tests.engine.test_swap_tokens import CODECS, check_tokens
from tests.examples import examples

TIERS = st.builds(
    KVTiers,
    host_mib=st.sampled_from([64.0, 0.03, 0.03]),
    disk_mib=st.sampled_from([0.0, 64.0, 64.0, 0.03]),
    load=st.sampled_from(["always", "always", "predicted"]),
    asynchronous=st.sampled_from([True, True, False]),
    link_gb_per_s=st.sampled_from([None, 0.01, 0.0005]),  # the last brings a block in several steps
)
PINS = st.builds(
    TimeToLive,
    mode=st.sampled_from(["fixed", "fixed", "adaptive", "fixed", "evict", "lru"]),
    ttl_s=st.sampled_from([1000.0, 0.02, 0.001]),
    prior_s=st.sampled_from([1e-6, 1e-3]),
    program_fcfs=st.booleans(),
)


def returning_crowd(seed: int) -> list[RequestSpec]:
    """Requests that begin with one of a few documents, come back to it later, or go on where another one ended; some
    are given up."""
    dice = random.Random(seed)
    documents = [[dice.randrange(8, 200) for _ in range(dice.randint(8, 40))] for _ in range(dice.randint(2, 4))]
    asked = []
    for index in range(dice.randint(5, 12)):
        after = dice.randrange(index) if index and dice.random() < 0.7 else None
        document = dice.choice(documents)
        prompt = document[: dice.randint(4, len(document))] + [
            dice.randrange(8, 200) for _ in range(dice.randint(1, 9))
        ]
        asked.append(
            RequestSpec(
                request_id=str(index),
                prompt_token_ids=tuple(prompt),
                max_tokens=dice.randint(2, 16),
                arrival_ns=dice.choice([0, 0, dice.randrange(10_000_000)]),
                after=None if after is None else str(after),
                continues=after is not None and dice.random() < 0.8,
                cancel_after_ns=dice.randrange(40_000_000) if dice.random() < 0.15 else None,
                group=dice.choice(["a", "b"]),
            )
        )
    return asked


@given(data=st.data())
@settings(max_examples=examples(36), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_with_tiers_or_pins_changes_a_token(data: st.DataObject, lettered, tmp_path: Path) -> None:
    model, directory = lettered
    block_size = data.draw(st.sampled_from([4, 8]), label="block_size")
    asked = returning_crowd(data.draw(st.integers(0, 2**32 - 1), label="workload"))
    speculation = data.draw(st.none() | drawn_guessing(6), label="speculation")
    least = 1 + (speculation.k if speculation else 0)
    pins = data.draw(PINS | PINS | st.none(), label="time_to_live")
    policies = sorted(set(POLICIES) - ({"padded-sorted"} if pins is not None and pins.program_fcfs else set()))
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
            st.builds(
                PrefixSharing,
                share_memory=st.booleans(),
                copy_partial=st.booleans(),
                wait_in_flight=st.booleans(),
                salt_by_group=st.booleans(),
            ),
            label="prefix_sharing",
        ),
        speculation=speculation,
        kv_quantization=CODECS[data.draw(st.sampled_from(sorted(CODECS)), label="codec")],
        preemption=data.draw(st.none() | st.builds(Preemption, asynchronous=st.booleans()), label="preemption"),
        kv_tiers=data.draw(st.none() | TIERS if pins else TIERS, label="kv_tiers"),
        time_to_live=pins,
        overlap=data.draw(st.sampled_from(["on", "off"]), label="overlap"),
        max_num_seqs=data.draw(st.integers(1, 4), label="max_num_seqs"),
        sampling=Sampling(ignore_eos=True),
        check_integrity=True,
        recording=data.draw(st.sampled_from(["full", "off"]), label="recording"),
    )
    prepared = prepare(make_spec(config, asked))
    longest = max(blocks_for(r.most_computed_tokens, block_size) for r in prepared.servable)
    spare = data.draw(st.integers(0, 50), label="spare blocks, % of the longest request's")
    room = Room(longest + longest * spare // 100, None if prepared.tails is None else 3)
    prepared = replace(prepared, pool=replace(prepared.pool, taken=room))
    with Recorder(tmp_path, config.recording, clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0, "blocks left behind"
    assert engine.scheduler.pool.num_pinned == 0, "pins left behind"
    assert all(r.end_reason is not None for r in prepared.requests), "a request was lost"
    assert not (tmp_path / TIERS_FOLDER).exists(), "files left behind"
    check_tokens(model, prepared)
