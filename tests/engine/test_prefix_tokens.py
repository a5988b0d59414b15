"""Prefix sharing changes who computes what, never a token. Prompts here begin alike by construction."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import ChunkedPrefill, EngineConfig, PrefixSharing, RequestSpec, Sampling
from engine.scheduling.policies import POLICIES
from engine.start.build import build_engine
from engine.start.prepare import prepare
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.spool import SpoolReader, spool_path
from tests.engine.drawn import drawn_requests, most_blocks, random_llama
from tests.engine.serving import Verdict, check_greedy, make_spec, serve
from tests.examples import examples

SHARING = st.builds(
    PrefixSharing,
    skip_prefill=st.sampled_from([True, True, True, False]),
    share_memory=st.sampled_from([True, True, True, False]),
    copy_partial=st.booleans(),
    wait_in_flight=st.booleans(),
    salt_by_group=st.booleans(),
    order=st.sampled_from(["arrival", "grouped"]),
    admission=st.sampled_from(["on-demand", "memory"]),
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A two-layer random Llama with grouped heads."""
    directory = tmp_path_factory.mktemp("tiny")
    return random_llama(directory, seed=5), directory


@st.composite
def families_of_prompts(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Prompts that continue one of a few stems, or an earlier prompt, from a random place on."""
    token = st.integers(8, 299)
    prompts = [tuple(draw(st.lists(token, min_size=1, max_size=48))) for _ in range(draw(st.integers(1, 2)))]
    for _ in range(draw(st.integers(1, 7))):
        stem = draw(st.sampled_from(prompts))
        kept = draw(st.integers(1, len(stem)) | st.just(len(stem)))
        prompts.append(stem[:kept] + tuple(draw(st.lists(token, max_size=20))))
    return draw(st.permutations(prompts))


@given(data=st.data())
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_with_prefix_sharing_changes_a_token(data: st.DataObject, tiny, tmp_path: Path):
    model, directory = tiny
    block_size = data.draw(st.sampled_from([1, 4, 16]), label="block_size")
    asked = drawn_requests(
        families_of_prompts(),
        follow=True,
        group=st.sampled_from(["a", "b"]),
        priority=st.integers(0, 1),
        arrival_ns=st.just(0) | st.integers(0, 20_000_000),
        cancel_after_ns=st.none() | st.none() | st.integers(0, 30_000_000),
    )
    requests = data.draw(asked, label="requests")
    longest = most_blocks(requests, block_size)
    sharing = data.draw(SHARING, label="prefix_sharing")
    backend = data.draw(st.sampled_from(["reference", "gathered", "native"]), label="backend")
    if sharing.share_memory and backend == "gathered":
        attention = data.draw(st.sampled_from(["off", "one-level", "tree"]), label="attention")
        sharing = sharing.model_copy(update={"attention": attention, "min_group": 2, "min_prefix_tokens": block_size})
    config = EngineConfig(
        model=str(directory),
        device="cpu",
        dtype="float32",
        threads=1,
        block_size=block_size,
        kv_blocks=longest + data.draw(st.integers(0, 2 * longest), label="spare blocks"),
        policy=data.draw(st.sampled_from(sorted(POLICIES)), label="policy"),
        chunked_prefill=data.draw(
            st.builds(ChunkedPrefill, token_budget=st.integers(1, 48), chunk_size=st.none() | st.integers(1, 24)),
            label="chunked_prefill",
        ),
        prefix_sharing=sharing,
        attention_backend=backend,
        max_num_seqs=data.draw(st.integers(1, 8), label="max_num_seqs"),
        max_num_batched_tokens=data.draw(st.integers(1, 64), label="max_num_batched_tokens"),
        sampling=Sampling(ignore_eos=data.draw(st.booleans(), label="ignore_eos")),
        check_integrity=True,
    )
    served = serve(make_spec(config, requests), tmp_path)
    verdict = sum((check_greedy(model, r) for r in served), Verdict())
    assert verdict.ties <= max(1, verdict.tokens // 1000)
    for request in served:
        assert request.cached_tokens < request.num_prompt_tokens
        if request.end_reason == "length":
            assert request.num_output_tokens == request.max_tokens


@pytest.mark.parametrize("backend", ["reference", "gathered", "native"])
def test_the_second_asker_computes_one_token_of_a_known_prompt(backend: str, tiny, tmp_path: Path):
    model, directory = tiny
    prompt = tuple(range(8, 72))  # four whole blocks: the last one is copied but for its last token
    asked = [
        RequestSpec(request_id="first", prompt_token_ids=prompt, max_tokens=5),
        RequestSpec(request_id="second", prompt_token_ids=prompt, max_tokens=5, after="first"),
    ]
    config = EngineConfig(
        model=str(directory), device="cpu", dtype="float32", threads=1, kv_blocks=20, attention_backend=backend,
        prefix_sharing=PrefixSharing(), sampling=Sampling(ignore_eos=True), check_integrity=True,
    )  # fmt: skip
    first, second = serve(make_spec(config, asked), tmp_path)
    assert (first.cached_tokens, second.cached_tokens) == (0, 63)
    assert first.output_token_ids == second.output_token_ids
    check_greedy(model, second)


@pytest.mark.parametrize("shared", [0, 12])
def test_what_a_preempted_request_finds_again_is_no_prefix_hit(shared: int, tiny, tmp_path: Path):
    """Six prompts with nothing in common, or with one common beginning, in a pool that preempts."""
    _, directory = tiny
    stem = tuple(range(200, 200 + shared))
    asked = [
        RequestSpec(request_id=str(i), prompt_token_ids=stem + tuple(range(10 + 20 * i, 30 + 20 * i)), max_tokens=30)
        for i in range(6)
    ]
    config = EngineConfig(
        model=str(directory), device="cpu", dtype="float32", threads=1, block_size=4, kv_blocks=36, max_num_seqs=4,
        prefix_sharing=PrefixSharing(), sampling=Sampling(ignore_eos=True), check_integrity=True,
    )  # fmt: skip
    prepared = prepare(make_spec(config, asked))
    with Recorder(tmp_path, "iterations", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    totals = engine.totals
    assert totals.preemptions > 0
    assert totals.preempted_hit_tokens > 0, "this proves little"
    assert totals.prefix_hit_tokens == sum(r.cached_tokens for r in prepared.requests)
    assert totals.prefix_hit_tokens <= 5 * shared
    if shared:
        assert totals.prefix_hit_tokens > 0
    rows = pa.Table.from_batches([p.batch for p in SpoolReader(spool_path(tmp_path, "iteration")).read()])
    for name in ("prefix_hit_tokens", "preempted_hit_tokens"):
        assert sum(rows[name].to_pylist()) == getattr(totals, name)


@pytest.mark.parametrize(
    ("backend", "poison"), [("reference", float("nan")), ("gathered", 1e4), ("native", float("nan"))]
)
def test_an_evicted_block_is_never_read(backend: str, poison: float, tiny, tmp_path: Path):
    """Every block that is evicted is filled with poison on the spot. (Gathered attention multiplies what it masks by zero, so its
    poison is finite.)"""
    model, directory = tiny
    rng = random.Random(1)
    stems = [tuple(rng.randrange(8, 300) for _ in range(40)) for _ in range(3)]
    asked = [
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=rng.choice(stems)[: rng.randrange(20, 41)]
            + tuple(rng.randrange(8, 300) for _ in range(5)),
            max_tokens=12,
        )
        for i in range(24)
    ]
    config = EngineConfig(
        model=str(directory), device="cpu", dtype="float32", threads=1, block_size=4, kv_blocks=32, max_num_seqs=4,
        attention_backend=backend, prefix_sharing=PrefixSharing(), sampling=Sampling(ignore_eos=True), check_integrity=True,
    )  # fmt: skip
    spec = make_spec(config, asked)
    prepared = prepare(spec)
    with Recorder(tmp_path, "off", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        pool, data = engine.scheduler.pool, engine.executor.cache.data
        forget, evicted = pool.evicted, []

        def poisoned(block: int) -> None:
            forget(block)
            data[:, :, :, block] = poison
            evicted.append(block)

        pool.evicted = poisoned
        engine.run(prepared.requests)
    assert len(evicted) > 20
    assert engine.totals.prefix_hit_tokens > 100
    ties = sum((check_greedy(model, r) for r in prepared.requests), Verdict()).ties
    assert ties <= 1
