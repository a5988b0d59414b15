"""At one codec, no combination of the other techniques changes a token: what a token sees depends on its place alone.

A number that lies on the border between two codes may fall to either side when a batch of another shape is summed in another order;
one code of one number then differs, and the logits by a little. Hence the room for ties, which is counted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.attention.packed import make_attention
from engine.batch import build_batch
from engine.config import (
    ChunkedPrefill,
    EngineConfig,
    KVQuantization,
    PrefixSharing,
    RequestSpec,
    Sampling,
    Speculation,
)
from engine.config.errors import EngineError
from engine.executor import Executor
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.scheduling.policies import POLICIES
from engine.start.attention import exact_prefill
from engine.start.build import build_engine, make_cache
from engine.start.prepare import prepare
from engine.start.sizing import Room
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.drawn import drawn_chunking, drawn_guessing, drawn_requests, most_blocks, random_llama
from tests.engine.serving import Verdict, make_spec
from tests.examples import examples

TIE = 5e-3
CODECS = {
    "int8": KVQuantization(codec="int8"),
    "int4": KVQuantization(codec="int4", group=8, rotate=False, centre=False),
    "int4 rotated": KVQuantization(codec="int4", rotate=True),
    "int4, 4 bits a key": KVQuantization(codec="int4", wide_keys=False),
    "fp8": KVQuantization(codec="fp8"),
    "kivi 2": KVQuantization(codec="kivi", residual=16, group=4),
    "kivi 4": KVQuantization(codec="kivi", residual=8, group=4, key_bits=4, value_bits=4),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Llama with grouped heads whose attention matters."""
    directory = tmp_path_factory.mktemp("tiny")
    letters = {chr(97 + i): 20 + i for i in range(26)}  # a token per letter, for text to calibrate on
    random_llama(directory, seed=5, letters=letters, vocab_size=200, initializer_range=0.4)
    return directory


def engine_config(model: Path, codec: KVQuantization | None, **changes) -> EngineConfig:
    values = {
        "model": str(model),
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "block_size": 4,
        "kv_blocks": 256,
        "kv_quantization": codec,
        "sampling": Sampling(ignore_eos=True),
        "check_integrity": True,
        "recording": "off",
    }
    return EngineConfig(**(values | changes))


@torch.inference_mode()
def check_alone(prepared, request: Request, tie: float = TIE) -> Verdict:
    """Every output token is the most likely one when prompt and output are computed in one piece on a cache of their own.

    ``tie``: logits within it of each other count as equal; how far rounding alone moves them depends on the model's depth.
    """
    output = request.output_token_ids
    if not output:
        return Verdict()
    shape, size = prepared.model.shape, prepared.spec.engine.block_size
    ids = request.token_ids[:-1]
    alone = Request(0, RequestSpec(request_id="alone", prompt="-"), ids, Sampling(), 1)
    alone.block_table, alone.tail = list(range(-(-len(ids) // size))), 0
    cache = make_cache(prepared, len(alone.block_table), 1)
    exact = exact_prefill(prepared.spec.engine)
    attention = make_attention("gathered", cache, shape.heads, shape.kv_heads, shape.head_dim, exact_prefill=exact)
    executor = Executor(prepared.model.decoder, attention)
    batch = build_batch(Plan([Slice(alone, len(ids), 0, True)]), size, prepared.device)
    attention.begin(batch.attention)
    hidden = executor.decoder.forward(batch.token_ids, batch.positions, attention)
    logits = executor.decoder.logits(hidden)[request.num_prompt_tokens - 1 :]
    verdict = Verdict(tokens=len(output))
    for position, token in enumerate(output):
        best = int(logits[position].argmax())
        if token != best:
            gap = float(logits[position, best] - logits[position, token])
            assert gap <= tie, (
                f"{request.request_id}: token {position} is {token}, alone it is {best} (ahead by {gap:.1e})"
            )
            verdict.ties += 1
    return verdict


def serve(config: EngineConfig, asked: list[RequestSpec], run_dir: Path, room: Room | None = None):
    """``room``: what the pool holds, instead of what was prepared."""
    prepared = prepare(make_spec(config, asked))
    if room is not None:
        prepared = replace(prepared, pool=replace(prepared.pool, taken=room))
    with Recorder(run_dir, config.recording, clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0, "blocks left behind"
    return prepared, engine


@st.composite
def prompts(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Prompts that continue a stem or an earlier one, some repeating themselves so that guesses hit."""
    token = st.integers(8, 199)
    made = [tuple(draw(st.lists(token, min_size=1, max_size=8))) * draw(st.integers(1, 8))]
    for _ in range(draw(st.integers(0, 5))):
        stem = draw(st.sampled_from(made))
        kept = draw(st.integers(1, len(stem)) | st.just(len(stem)))
        made.append(stem[:kept] + tuple(draw(st.lists(token, max_size=12))))
    return made


@given(data=st.data())
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_changes_a_token_at_one_codec(data: st.DataObject, tiny: Path, tmp_path: Path) -> None:
    codec = CODECS[data.draw(st.sampled_from(sorted(CODECS)), label="codec")]
    block_size = data.draw(st.sampled_from([4, 8]), label="block_size")
    requests = drawn_requests(
        prompts(),
        max_tokens=30,
        priority=st.integers(0, 1),
        arrival_ns=st.just(0) | st.integers(0, 20_000_000),
        cancel_after_ns=st.none() | st.none() | st.integers(0, 30_000_000),
    )
    asked = data.draw(requests, label="requests")
    longest = most_blocks(asked, block_size)
    speculation = data.draw(st.none() | drawn_guessing(8), label="speculation")
    sharing = data.draw(st.none() | st.builds(PrefixSharing, wait_in_flight=st.booleans()), label="prefix_sharing")
    least = 1 + (speculation.k if speculation else 0)
    config = engine_config(
        tiny,
        codec,
        block_size=block_size,
        # in blocks at full precision: tight ones preempt
        kv_blocks=longest + data.draw(st.integers(8, 2 * longest + 8), label="spare blocks"),
        policy=data.draw(st.sampled_from(sorted(POLICIES)), label="policy"),
        chunked_prefill=data.draw(drawn_chunking(least), label="chunked_prefill"),
        prefix_sharing=sharing,
        speculation=speculation,
        overlap=data.draw(st.sampled_from(["on", "off"]), label="overlap"),
        max_num_seqs=data.draw(st.integers(1, 6), label="max_num_seqs"),
    )
    prepared, _ = serve(config, asked, tmp_path)
    verdict = sum((check_alone(prepared, r) for r in prepared.requests), Verdict())
    assert verdict.ties <= max(1, verdict.tokens // 100)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_smoothing_changes_no_score_before_packing(alpha: float, tiny: Path) -> None:
    """Folded into the weights it is exact: without packing, the logits stay what they were."""
    from engine.start.calibrate import Probe, measure

    asked = [RequestSpec(request_id="0", prompt_token_ids=tuple(range(8, 60)), max_tokens=1)]
    keys, logits = [], []
    for smooth in (0.0, alpha):
        codec = KVQuantization(codec="int8", smooth=smooth, calibration_tokens=64)
        decoder = prepare(make_spec(engine_config(tiny, codec), asked)).model.decoder
        ids = torch.arange(8, 60)
        probe = Probe(decoder.shape, lambda layer, k, v: None)
        logits.append(decoder.logits(decoder.forward(ids, torch.arange(len(ids)), probe)))
        keys.append(measure(decoder, list(range(8, 60))).keys)
    assert torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(keys[0], keys[1], rtol=0.1), "the keys that are stored are others"


@torch.inference_mode()
def test_the_mean_key_is_that_of_keys_at_every_place_they_may_have(tiny: Path) -> None:
    """The mean over the text itself, were it read again at every place: rotations by position add up."""
    from engine.start.calibrate import Probe, measure

    asked = [RequestSpec(request_id="0", prompt_token_ids=(9, 9), max_tokens=1)]
    decoder = prepare(make_spec(engine_config(tiny, None), asked)).model.decoder
    text, unrotated = list(range(8, 60)), torch.zeros(len(range(8, 60)), dtype=torch.int64)
    keys: list[torch.Tensor] = []
    probe = Probe(decoder.shape, lambda layer, k, v: keys.append(k[0]))
    for place in range(256):  # the first layer's keys depend on their tokens alone
        decoder.forward(torch.tensor(text[:1]), unrotated[:1] + place, probe, layers=[0])
    first = measure(decoder, text[:1]).mean_keys[0]
    assert torch.allclose(first, torch.stack(keys).mean(0), atol=1e-4)
    assert not torch.allclose(first, keys[0], rtol=0.5, atol=0.1), "the place does matter"


def test_a_calibration_text_shorter_than_a_block_is_refused(tiny: Path) -> None:
    asked = [RequestSpec(request_id="0", prompt_token_ids=(9, 9), max_tokens=1)]
    config = engine_config(tiny, KVQuantization(codec="fp8", calibration_tokens=15), block_size=16)
    with pytest.raises(EngineError) as caught:
        prepare(make_spec(config, asked))
    assert caught.value.field == "kv_quantization.calibration_tokens"
    assert "less than one block of 16" in caught.value.message


def test_the_codecs_do_change_tokens(tiny: Path, tmp_path: Path) -> None:
    """Else the tests above prove nothing."""
    asked = [
        RequestSpec(request_id=str(i), prompt_token_ids=tuple(range(8 + i, 60 + i)), max_tokens=60) for i in range(4)
    ]
    served = {
        name: [r.output_token_ids for r in serve(engine_config(tiny, codec), asked, tmp_path / name)[0].requests]
        for name, codec in {"none": None, **CODECS}.items()
    }
    changed = [name for name in CODECS if served[name] != served["none"]]
    assert {"int4", "kivi 2", "kivi 4"} <= set(changed)
    assert len({str(tokens) for tokens in served.values()}) >= 4


@pytest.mark.parametrize("name", CODECS)
def test_preempted_shared_and_guessed_at_once(name: str, tiny: Path, tmp_path: Path) -> None:
    """A pool so small that requests are preempted, prompts that begin alike, guesses that cross windows."""
    stem = tuple(20 + i % 5 for i in range(40))
    asked = [
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=(*stem, 100 + i),
            max_tokens=60 if i % 3 == 0 else 6,
            after="1" if i > 4 else None,
        )
        for i in range(12)
    ]
    config = engine_config(
        tiny,
        CODECS[name],
        kv_blocks=60,
        max_num_seqs=6,
        prefix_sharing=PrefixSharing(),
        speculation=Speculation(control="fixed", k=5, ngram_min=1),
        chunked_prefill=ChunkedPrefill(token_budget=24),
    )
    tails = 6 if CODECS[name].codec == "kivi" else None
    prepared, engine = serve(config, asked, tmp_path, Room(36, tails))
    totals = engine.totals
    assert totals.prefix_hit_tokens > 0
    assert 0 < totals.accepted_tokens < totals.draft_tokens, "no guess was rejected, or none taken: this proves little"
    assert totals.preemptions > 0
    verdict = sum((check_alone(prepared, r) for r in prepared.requests), Verdict())
    assert verdict.ties <= max(1, verdict.tokens // 100)


def test_a_window_is_shared_whole_or_not_at_all(tiny: Path, tmp_path: Path) -> None:
    """What sharing gives up with a window: a prefix counts to its last whole window (here 16 tokens), and no block is copied in part."""
    prompt = tuple(range(8, 68))  # 60 tokens: three whole windows and 12 tokens
    asked = [
        RequestSpec(request_id="first", prompt_token_ids=prompt, max_tokens=5),
        RequestSpec(request_id="second", prompt_token_ids=prompt, max_tokens=5, after="first"),
    ]
    cached = {}
    for name in ("kivi 2", "int8"):
        config = engine_config(tiny, CODECS[name], prefix_sharing=PrefixSharing())
        cached[name] = serve(config, asked, tmp_path / name)[0].requests[1].cached_tokens
    assert cached == {"kivi 2": 48, "int8": 59}


def test_an_exact_prefill_depends_on_how_the_prompt_was_cut(tiny: Path, tmp_path: Path) -> None:
    """Exactly where tokens may differ at one codec: prompts that attend to their own chunk as it was, cut in other places."""
    asked = [
        RequestSpec(request_id=str(i), prompt_token_ids=tuple(range(8 + i, 60 + i)), max_tokens=40) for i in range(6)
    ]
    served = {}
    for prefill in ("exact", "stored"):
        codec = KVQuantization(codec="int4", prefill=prefill)
        for budget in (7, 512):
            config = engine_config(tiny, codec, chunked_prefill=ChunkedPrefill(token_budget=budget))
            served[prefill, budget] = [
                r.output_token_ids for r in serve(config, asked, tmp_path / f"{prefill}{budget}")[0].requests
            ]
    assert served["exact", 7] != served["exact", 512]
    assert served["stored", 7] == served["stored", 512]


@pytest.mark.parametrize("name", CODECS)
def test_a_smaller_codec_gives_more_blocks_of_the_same_bytes(name: str, tiny: Path) -> None:
    asked = [RequestSpec(request_id=str(i), prompt_token_ids=(9,) * 30, max_tokens=50) for i in range(4)]
    full = prepare(make_spec(engine_config(tiny, None, kv_blocks=200), asked))
    packed = prepare(make_spec(engine_config(tiny, CODECS[name], kv_blocks=200), asked))
    room = make_cache(full, full.num_blocks, None).nbytes
    cache = make_cache(packed, packed.num_blocks, packed.tails)
    assert cache.nbytes <= room
    assert cache.nbytes > room - cache.nbytes / packed.num_blocks - 1
    assert packed.kv_capacity_tokens > 1.5 * full.kv_capacity_tokens


def test_every_packed_block_says_so_once(tiny: Path, tmp_path: Path) -> None:
    asked = [RequestSpec(request_id="0", prompt_token_ids=(9,) * 30, max_tokens=21)]
    for name, blocks in (
        ("int8", 12),
        ("kivi 2", 12),
    ):  # 50 tokens are computed: 12 whole blocks, three windows of four
        config = engine_config(tiny, CODECS[name], recording="full")
        prepared = prepare(make_spec(config, asked))
        with Recorder(tmp_path / name, "full", clock := RunClock()) as recorder:
            engine = build_engine(prepared, recorder, clock)
            seen: list = []
            note = engine.scheduler.pool.quantised

            def noted(block: int, request: int, position: int, seen=seen, note=note) -> None:
                seen.append(position)
                note(block, request, position)

            engine.scheduler.pool.quantised = noted  # type: ignore[method-assign]
            engine.run(prepared.requests)
        assert seen == list(range(blocks))
