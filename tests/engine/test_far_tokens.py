"""A far pool changes no token, whatever else is on, and serves what the KV pool alone could not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.block_table import blocks_for
from engine.config import EngineConfig, FarPool, Preemption, PrefixSharing, Sampling
from engine.kv.lending import LendingPool
from engine.scheduling.policies import POLICIES
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.sizing import Room
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.drawn import drawn_chunking, drawn_guessing
from tests.engine.serving import make_spec
from tests.engine.test_swap_tokens import CODECS, check_tokens, crowd
from tests.examples import examples


@given(data=st.data())
@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_with_a_far_pool_changes_a_token(data: st.DataObject, lettered, tmp_path: Path) -> None:
    model, directory = lettered
    block_size = data.draw(st.sampled_from([4, 8]), label="block_size")
    asked = crowd(data.draw(st.integers(0, 2**32 - 1), label="workload"))
    speculation = data.draw(st.none() | drawn_guessing(6), label="speculation")
    least = 1 + (speculation.k if speculation else 0)
    sharing = data.draw(
        st.none()
        | st.builds(
            PrefixSharing, share_memory=st.booleans(), copy_partial=st.booleans(), wait_in_flight=st.booleans()
        ),
        label="prefix_sharing",
    )
    priorities = data.draw(st.sampled_from(["fixed", "fixed", "random"]), label="priorities")
    config = EngineConfig(
        model=str(directory),
        device="cpu",
        dtype="float32",
        threads=1,
        block_size=block_size,
        kv_blocks=512,
        policy=data.draw(
            st.sampled_from(sorted(set(POLICIES) - {"static", "padded", "padded-sorted"})), label="policy"
        ),
        chunked_prefill=data.draw(drawn_chunking(least), label="chunked_prefill"),
        prefix_sharing=sharing,
        speculation=speculation,
        kv_quantization=CODECS[data.draw(st.sampled_from(sorted(set(CODECS) - {"kivi"})), label="codec")],
        preemption=Preemption(mode="recompute", priorities=priorities, priority_every=3),
        far_pool=FarPool(blocks=1),
        max_num_seqs=data.draw(st.integers(1, 6), label="max_num_seqs"),
        sampling=Sampling(ignore_eos=True),
        check_integrity=True,
        recording=data.draw(st.sampled_from(["full", "off"]), label="recording"),
    )
    prepared = prepare(make_spec(config, asked))
    longest = max(blocks_for(r.most_computed_tokens, block_size) for r in prepared.servable)
    near = data.draw(st.integers(1, longest), label="blocks of the KV pool")
    spare = data.draw(st.integers(0, 100), label="spare blocks, % of the longest request's")
    far = FarPool(blocks=max(1, longest - near + longest * spare // 100))
    engine_config = config.model_copy(update={"far_pool": far})
    prepared = replace(
        prepared,
        spec=prepared.spec.model_copy(update={"engine": engine_config}),
        pool=replace(prepared.pool, taken=Room(near, None)),
        layout=replace(prepared.layout, far_blocks=far.blocks),
    )
    with Recorder(tmp_path, config.recording, clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    engine.scheduler.check_integrity()
    pool = engine.scheduler.pool
    assert isinstance(pool, LendingPool)
    assert (pool.num_used, pool.far_used) == (0, 0), "blocks left behind"
    assert all(r.end_reason is not None for r in prepared.requests), "a request was lost"
    check_tokens(model, prepared)
