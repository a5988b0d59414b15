"""Where a request's keys and values lie changes no token, whatever else is on, and the books of memory balance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import ChunkedPrefill, EngineConfig, KVLayout, PrefixSharing, Sampling, Speculation
from engine.kv.ranges import DemandPaged
from engine.scheduling.policies import POLICIES
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.sizing import Room
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.drawn import drawn_chunking, drawn_guessing
from tests.engine.serving import make_spec
from tests.engine.test_swap_tokens import CODECS, SWAPS, check_tokens, crowd
from tests.examples import examples

LAYOUTS = st.builds(
    KVLayout,
    kind=st.sampled_from(["demand-paged", "demand-paged", "reserve-max", "paged"]),
    page_kib=st.sampled_from([4, 4, 8, 64]),
    deferred_reclaim=st.booleans(),
)


def serve(config: EngineConfig, asked, run_dir: Path, spare: int):
    """Serve from a pool with memory for the request that takes most, and that many percent more; every book balances."""
    prepared = prepare(make_spec(config, asked))
    most = max(prepared.layout.blocks_of(r.most_computed_tokens) for r in prepared.servable)
    room = Room(most + most * spare // 100, None if prepared.tails is None else 3)
    prepared = replace(prepared, pool=replace(prepared.pool, taken=room))
    with Recorder(run_dir, config.recording, clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    pool = engine.scheduler.pool
    engine.scheduler.check_integrity()
    assert pool.num_used == 0, "memory left behind"
    assert pool.held_bytes == 0
    assert all(r.end_reason is not None for r in prepared.requests), "a request was lost"
    if isinstance(pool, DemandPaged) and not pool.deferred:
        assert pool.kept_bytes == 0
        assert pool.space.resident_bytes() == 0, "pages were not given back"
    return prepared, engine


@given(data=st.data())
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_layout_changes_a_token(data: st.DataObject, lettered, tmp_path: Path) -> None:
    model, directory = lettered
    asked = crowd(data.draw(st.integers(0, 2**32 - 1), label="workload"))
    layout = data.draw(LAYOUTS, label="kv_layout")
    swaps = data.draw(st.none() | SWAPS, label="preemption")
    speculation = data.draw(st.none() | drawn_guessing(6), label="speculation")
    least = 1 + (speculation.k if speculation else 0)
    whole = {"static", "padded", "padded-sorted"} if swaps is not None and swaps.redraws else set()
    codec = CODECS[data.draw(st.sampled_from(sorted(CODECS)), label="codec")]
    config = EngineConfig(
        model=str(directory),
        device="cpu",
        dtype="float32",
        threads=1,
        block_size=data.draw(st.sampled_from([4, 8]), label="block_size"),
        kv_blocks=2**14,
        policy=data.draw(st.sampled_from(sorted(set(POLICIES) - whole)), label="policy"),
        chunked_prefill=data.draw(drawn_chunking(least), label="chunked_prefill"),
        prefix_sharing=data.draw(st.none() | st.builds(PrefixSharing), label="prefix_sharing")
        if layout.kind == "paged"
        else None,
        speculation=speculation,
        kv_quantization=codec,
        preemption=swaps,
        kv_layout=layout,
        attention_backend=data.draw(st.sampled_from(["auto", "auto", "gathered"]), label="backend"),
        overlap=data.draw(st.sampled_from(["on", "off"]), label="overlap"),
        max_num_seqs=data.draw(st.integers(2, 6), label="max_num_seqs"),
        sampling=Sampling(ignore_eos=True),
        check_integrity=True,
        recording=data.draw(st.sampled_from(["full", "off"]), label="recording"),
    )
    spare = data.draw(st.integers(0, 250), label="spare memory, % of what the largest request takes")
    prepared, _ = serve(config, asked, tmp_path, spare)
    check_tokens(model, prepared)


@pytest.mark.parametrize("policy", ["padded", "stall-free"])
@pytest.mark.parametrize(
    "guesses", [None, Speculation(proposer="layer-skip", control="fixed", k=2)], ids=["plain", "guesses"]
)
def test_what_is_read_for_padding_belongs_to_the_request(
    policy: str, guesses: Speculation | None, lettered, tmp_path: Path
) -> None:
    """A page that is only read is there, too: short tables are filled up with blocks of their own."""
    _, directory = lettered
    config = EngineConfig(
        model=str(directory),
        device="cpu",
        dtype="float32",
        threads=1,
        block_size=8,
        kv_blocks=2**14,
        policy=policy,
        chunked_prefill=ChunkedPrefill(token_budget=17, chunk_size=1),
        speculation=guesses,
        kv_quantization=CODECS["fp8"],
        kv_layout=KVLayout(kind="demand-paged", page_kib=4, deferred_reclaim=False),
        attention_backend="gathered",
        overlap="off",
        max_num_seqs=5,
        sampling=Sampling(ignore_eos=True),
        check_integrity=True,
    )
    serve(config, crowd(1), tmp_path, spare=102)
