"""Guessing, choosing how far, and the books: what is drafted, accepted, refused and recorded."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import executor
from engine.batch import build_batch
from engine.config import (
    ChunkedPrefill,
    ConfigError,
    EngineConfig,
    KVQuantization,
    PrefixSharing,
    RequestSpec,
    Sampling,
    Speculation,
    apply_overrides,
)
from engine.config.errors import EngineError, IntegrityError
from engine.kv import cache
from engine.loop import Engine
from engine.request import Draft
from engine.scheduling.plan import Plan, Slice
from engine.scheduling.scheduler import Scheduler
from engine.speculation.lookup import NGramIndex, PromptLookup, followed
from engine.speculation.models import ModelProposer, kept_layers
from engine.speculation.smart import (
    PROBE_REQUESTS,
    REHEARSED,
    Acceptance,
    SmartLength,
    best_common_length,
    best_lengths,
)
from engine.speculation.step_time import Load, StepTime
from engine.start.build import allocate
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.speculation import make_speculator
from engine.start.trial import try_out
from engine.stopping import Outputs
from telemetry.spool import SpoolReader, spool_path
from tests.engine.serving import make_spec, serve

TINY = EngineConfig(
    model="random:tiny",
    device="cpu",
    dtype="float32",
    threads=1,
    kv_blocks=256,
    block_size=4,
    sampling=Sampling(ignore_eos=True),
    check_integrity=True,
)


def speculating(**values: Any) -> EngineConfig:
    values = {"proposer": "layer-skip", "k": 3, "control": "fixed"} | values
    return TINY.model_copy(update={"speculation": Speculation(**values)})


def asked(count: int = 3, max_tokens: int = 24) -> list[RequestSpec]:
    return [
        RequestSpec(request_id=str(i), prompt_token_ids=tuple(range(40 + i, 55 + 2 * i)), max_tokens=max_tokens)
        for i in range(count)
    ]


@pytest.fixture
def wrong_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups find a token that this model hardly ever says."""
    monkeypatch.setattr(PromptLookup, "propose", lambda self, requests, lengths: [Draft([3] * n) for n in lengths])


def rows(run_dir: Path, row: str) -> list[dict[str, Any]]:
    return pa.Table.from_batches([part.batch for part in SpoolReader(spool_path(run_dir, row)).read()]).to_pylist()


# ---------------------------------------------------------------- guessing


@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=60), length=st.integers(1, 8), cut=st.integers(1, 59))
def test_lookup_continues_the_latest_longest_match(tokens: list[int], length: int, cut: int):
    """Against the plain search through the whole text, whether the index was built at once or while the text grew."""
    index = NGramIndex(2, 4)
    index.update(tokens[:cut])
    index.update(tokens)
    expected: list[int] = []
    for size in (4, 3, 2):
        ends = [e for e in range(size, len(tokens)) if tokens[e - size : e] == tokens[-size:]]
        if ends:
            text = list(tokens)
            for step in range(length):
                text.append(text[ends[-1] + step])
            expected = text[len(tokens) :]
            break
    assert index.guess(tokens, length) == expected


@given(
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    ahead=st.lists(st.integers(0, 2), max_size=6),
    longest=st.integers(1, 4),
)
def test_a_match_goes_through_guesses_and_they_leave_no_trace(tokens: list[int], ahead: list[int], longest: int):
    """As if the guesses had been text, and afterwards as if they had never been."""
    index = NGramIndex(1, longest)
    index.update(tokens)
    before = dict(index._next)
    place, size = index.find(tokens, ahead)
    whole = [*tokens, *ahead]
    guesses, matched = followed(whole, longest)
    assert size == matched[-1]
    assert (whole[place] if size else -1) == guesses[-1]
    assert index._next == before
    for end, (token, length) in enumerate(zip(guesses, matched, strict=True), start=1):
        known = whole[:end]
        sizes = [n for n in range(1, longest + 1) if any(known[e - n : e] == known[-n:] for e in range(n, end))]
        assert length == max(sizes, default=0)
        if length:
            assert token == whole[max(e for e in range(length, end) if known[e - length : e] == known[-length:])]


@pytest.mark.parametrize(
    ("layers", "speedup", "kept"),
    [(4, 1.0, [0, 1, 2, 3]), (8, 2.0, [0, 2, 5, 7]), (30, 10.0, [0, 14, 29]), (2, 64.0, [0, 1]), (1, 2.0, [0])],
)
def test_layers_left_out_are_evenly_spaced_and_never_the_ends(layers: int, speedup: float, kept: list[int]):
    assert kept_layers(layers, speedup) == kept


def test_a_guesser_that_is_the_model_is_always_right(tmp_path: Path):
    served = serve(make_spec(speculating(target_speedup=1.0), asked()), tmp_path)
    assert all(r.accepted_tokens == r.drafted_tokens > 0 for r in served)
    drafting = serve(make_spec(speculating(proposer="draft-model", draft_model="random:tiny"), asked()), tmp_path / "d")
    assert all(r.accepted_tokens == r.drafted_tokens > 0 for r in drafting)


# ---------------------------------------------------------------- how far


SMARTSPEC_TABLE = {
    0.3: [4, 2, 1, 1, 1, 0, 0],
    0.5: [7, 4, 2, 2, 1, 1, 0],
    0.7: [8, 7, 4, 3, 2, 1, 1],
    0.9: [8, 8, 8, 7, 5, 4, 3],
}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("draft", [None, "random:tiny"])
def test_guessing_is_tried_out_for_one_request_and_for_all(
    draft: str | None, temperature: float, monkeypatch: pytest.MonkeyPatch
):
    """With the run's own proposer, sampled or greedy."""
    asks = {"control": "smart", "k": 2} | ({"proposer": "draft-model", "draft_model": draft} if draft else {})
    config = speculating(**asks).model_copy(update={"sampling": Sampling(temperature=temperature), "max_num_seqs": 3})
    seen: list[tuple[int, set[int]]] = []
    propose = ModelProposer.propose

    def watched(self: ModelProposer, requests: Any, lengths: Any) -> list[Draft]:
        drafts = propose(self, requests, lengths)
        seen.append((len(requests), {len(draft.tokens) for draft in drafts}))
        return drafts

    monkeypatch.setattr(ModelProposer, "propose", watched)
    control = tried_out(prepare(make_spec(config, asked())))
    assert seen == [(n, {length}) for n in (1, 3) for length in REHEARSED if length]
    known = control.step_time
    counted = 2 * (len(REHEARSED) - 1)  # the first of either is not, nor what took far too long
    assert counted / 2 < known.steps <= counted
    assert known.draft_ns > 0
    assert sum(known.coefficients.values()) > known.draft_ns


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix_sharing": PrefixSharing()},
        {"kv_quantization": KVQuantization(codec="kivi", group=4, residual=8)},
        {"policy": "static"},
        {"max_model_len": 8},
        {"kv_blocks": 16},
        {"overlap": "on"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_trial_leaves_nothing_behind(changes: dict[str, Any], tmp_path: Path):
    """Whatever else is switched on: the run that follows has the tokens of one without a trial, and its books balance."""
    config = speculating(control="smart", proposer="prompt-lookup", k=2).model_copy(update=changes)
    spec = make_spec(config, asked(3, max_tokens=2 if "max_model_len" in changes else 12))
    if "max_model_len" in changes:
        spec = spec.model_copy(
            update={"requests": (RequestSpec(request_id="0", prompt_token_ids=(7, 8, 9), max_tokens=3),)}
        )
    tried, cold = serve(spec, tmp_path / "tried", tried_out=True), serve(spec, tmp_path / "cold")
    assert [r.token_ids for r in tried] == [r.token_ids for r in cold]
    assert [r.num_output_tokens for r in tried] == [r.max_tokens for r in cold]


def tried_out(prepared: Prepared) -> SmartLength:
    executor = allocate(prepared)
    drafter = make_speculator(prepared, executor.cache)
    assert drafter is not None
    try_out(prepared, executor, drafter)
    assert isinstance(drafter.control, SmartLength)
    return drafter.control


@pytest.mark.parametrize("acceptance", SMARTSPEC_TABLE)
def test_lengths_are_those_of_smartspec_with_its_own_coefficients(acceptance: float):
    """Step times in ms as the authors fitted them for a 70B model on four H100s; context 1000, all requests alike."""
    for batch, k in zip([1, 8, 32, 64, 128, 256, 512], SMARTSPEC_TABLE[acceptance], strict=True):

        def milliseconds(total: int, longest: int, batch: int = batch) -> float:
            kv, verifies = 1000 * batch, longest > 0
            return 6.24e-5 * kv + 6.40e-2 * (batch + total) - 3.97e-2 * batch - 0.112 * verifies + 18.35

        lengths, _ = best_lengths([acceptance] * batch, [8] * batch, 0, milliseconds)
        assert lengths == [k] * batch


def test_requests_whose_guesses_are_right_guess_further():
    lengths, _ = best_lengths([0.9, 0.2, 0.6], [8, 8, 2], 0, lambda total, longest: 10 + 0.5 * total)
    assert lengths[0] > lengths[1]
    assert lengths[2] <= 2


@pytest.mark.parametrize("alpha", SMARTSPEC_TABLE)
def test_one_length_for_all_is_the_scan_over_k(alpha: float):
    """Where all are alike it is what lengths of their own are; where they are not, they promise no less."""

    def seconds(total, longest):
        return 10 + 0.5 * total + 0.2 * longest

    alike = best_common_length([alpha] * 8, [8] * 8, 3, seconds)
    assert alike == best_lengths([alpha] * 8, [8] * 8, 3, seconds)
    goodput = [8 * (1 + sum(alpha**j for j in range(1, k + 1))) + 3 for k in range(9)]
    by_hand = [useful / seconds(8 * k, k) for k, useful in enumerate(goodput)]
    assert alike[0] == [int(np.argmax(by_hand))] * 8
    assert alike[1] == pytest.approx(max(by_hand))
    mixed = [alpha, 0.05, 0.95, alpha], [8, 2, 8, 1]
    common, own = best_common_length(*mixed, 0, seconds), best_lengths(*mixed, 0, seconds)
    assert all(length <= most for length, most in zip(common[0], mixed[1], strict=True))
    assert len({length for length, most in zip(common[0], mixed[1], strict=True) if length < most}) <= 1
    assert own[1] >= common[1]


def test_acceptance_counts_tested_guesses_only():
    estimate = Acceptance()
    for _ in range(60):
        estimate.update(0, drafted=4, accepted=1)  # one accepted, one rejected, two never tested
    assert estimate.of(0) == pytest.approx(0.5, abs=0.1)
    for _ in range(60):
        estimate.update(1, drafted=4, accepted=4)
    assert estimate.of(1) > 0.99
    estimate.forget(1)
    assert estimate.of(1) == estimate.overall


def test_guessing_in_vain_is_noticed_within_a_probe():
    estimate = Acceptance()
    assert estimate.of(0) == estimate.overall == pytest.approx(0.7)
    for request in range(4):
        estimate.update(request, drafted=2, accepted=0)
    assert max(estimate.of(request) for request in range(16)) < 0.3
    estimate.update(3, drafted=8, accepted=8)
    assert estimate.of(3) > 0.7 > 0.5 > estimate.of(0), "a request that copies is not held back by the others"


def test_step_time_is_learnt_from_iterations():
    model = StepTime()
    for step in range(300):
        load = Load(100 + 37 * (step % 19), 1 + step % 23, 1 + step % 5, step % 3 == 0)
        took = 3_000 * load.kv_tokens + 2e6 * load.tokens + 1e6 * load.sequences + 5e5 * load.verifies + 4e7
        model.update(load, 0, round(took), 0)
    assert model.coefficients["per_token_ns"] == pytest.approx(2e6, rel=0.02)
    assert model.coefficients["base_ns"] == pytest.approx(4e7, rel=0.02)
    assert model.fit > 0.9
    assert model.predict(Load(500, 9, 2, True), 0) == pytest.approx(1.5e6 + 18e6 + 2e6 + 5e5 + 4e7, rel=0.02)


def test_one_slow_guess_is_not_the_usual_one():
    step_time = StepTime()
    for draft_ns in (4e6, 4e6, 600e6, 4e6):
        step_time.update(Load(100, 4, 2, True), 2, int(20e6 + draft_ns), int(draft_ns))
    assert 2e6 <= step_time.draft_ns <= 4e6


def test_no_step_is_expected_to_take_no_time():
    """Few and noisy iterations, then a load far from all of them."""
    for seed in range(30):
        rng, model, least = random.Random(seed), StepTime(), 1e12
        for _ in range(12):
            took = rng.uniform(2e7, 3e8)
            least = min(least, took)
            model.update(
                Load(rng.randrange(200, 900), rng.randrange(1, 60), rng.randrange(1, 5), rng.random() < 0.5),
                0,
                round(took),
                0,
            )
        assert min(model.coefficients.values()) >= 0
        for load in (Load(0, 1, 1, False), Load(100, 1, 4, True), Load(5000, 1, 1, True)):
            assert model.predict(load, 0) >= 0.49 * least


def test_a_long_prompt_does_not_make_plain_steps_look_slow(
    wrong_guesses: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The first step is a prompt's and long; guesses cost half a step each and are all wrong: hardly any are made."""
    learn = SmartLength.learn

    def told(self: SmartLength, plan: Plan, duration_ns: int) -> None:
        plan.draft_ns = 12_000_000 * max(part.drafted for part in plan.slices)
        learn(self, plan, 25_000_000 + 2_000_000 * plan.num_tokens + plan.draft_ns)

    monkeypatch.setattr(SmartLength, "learn", told)
    config = speculating(proposer="prompt-lookup", control="smart", k=4)
    served = serve(make_spec(config, asked(1, max_tokens=150)), tmp_path)
    assert sum(r.drafted_tokens for r in served) <= 14


def test_smart_control_stops_guessing_what_is_never_right(
    wrong_guesses: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """With a clock that charges 10 ms for an iteration and 2 ms for each token in it."""
    learn = SmartLength.learn

    def told(self: SmartLength, plan: Plan, duration_ns: int) -> None:
        plan.draft_ns = 0
        learn(self, plan, 10_000_000 + 2_000_000 * plan.num_tokens)

    monkeypatch.setattr(SmartLength, "learn", told)
    wrong = speculating(proposer="prompt-lookup", control="smart", k=8)
    run_dir = tmp_path / "wrong"
    served = serve(make_spec(wrong, asked(2, max_tokens=200)), run_dir)
    assert 0 < sum(r.drafted_tokens for r in served) < 0.3 * sum(r.num_output_tokens for r in served)
    decisions = [d for d in rows(run_dir, "decision") if d["action"] == "speculation"]
    changes = [d for d in decisions if d["request"] is not None]
    assert all(d["value"] > 0 for d in decisions if d["reason"] == "predicted")
    assert {d["reason"] for d in changes} == {"acceptance", "probe"}
    assert any(d["tokens"] == 0 and (d["value"] or 0) > 0 for d in changes)


def test_of_many_requests_a_few_probe(wrong_guesses: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    learn = SmartLength.learn

    def told(self: SmartLength, plan: Plan, duration_ns: int) -> None:
        plan.draft_ns = 0
        learn(self, plan, 10_000_000 + 2_000_000 * plan.num_tokens)

    monkeypatch.setattr(SmartLength, "learn", told)
    wrong = speculating(proposer="prompt-lookup", control="smart", k=8)
    serve(make_spec(wrong, asked(8, max_tokens=120)), tmp_path)
    verifying = [s for s in rows(tmp_path, "slice") if s["drafted"]]
    together = Counter(s["iteration"] for s in verifying)
    assert max(together.values()) <= PROBE_REQUESTS
    assert len({s["request"] for s in verifying}) > PROBE_REQUESTS, "they take turns"


# ---------------------------------------------------------------- the books


@pytest.mark.parametrize("proposer", ["layer-skip", "prompt-lookup"])
def test_rows_agree_with_each_other(proposer: str, wrong_guesses: None, tmp_path: Path):
    served = serve(make_spec(speculating(proposer=proposer, k=4), asked()), tmp_path)
    slices, iterations = rows(tmp_path, "slice"), rows(tmp_path, "iteration")
    verify = [s for s in slices if s["kind"] == "verify"]
    assert verify
    assert all((s["drafted"] > 0) == (s["kind"] == "verify") for s in slices)
    assert all(s["tokens"] == 1 + s["drafted"] and s["emitted"] == 1 + s["accepted"] for s in verify)
    for step in iterations:
        parts = [s for s in slices if s["iteration"] == step["iteration"]]
        for column, name in (
            ("draft_tokens", "drafted"),
            ("accepted_tokens", "accepted"),
            ("emitted_tokens", "emitted"),
        ):
            assert step[column] == sum(s[name] for s in parts)
        computed = step["prefill_tokens"] + step["decode_tokens"] + step["draft_tokens"]
        assert computed == sum(s["tokens"] for s in parts)
        assert 0 <= step["draft_ns"] <= step["schedule_ns"]
    for row, request in zip(rows(tmp_path, "request"), sorted(served, key=lambda r: r.index), strict=True):
        own = [s for s in slices if s["request"] == row["request"]]
        assert row["output_tokens"] == sum(s["emitted"] for s in own) == request.num_output_tokens
        assert row["drafted_tokens"] == sum(s["drafted"] for s in own) > 0
        assert row["accepted_tokens"] == sum(s["accepted"] for s in own)
        assert sum(s["itl_ns"] is not None for s in own) == sum(s["emitted"] > 0 for s in own) - 1


@pytest.mark.parametrize("policy", ["stall-free", "splitfuse", "chunk-only"])
def test_guesses_count_against_the_budget(policy: str, tmp_path: Path):
    config = speculating(k=6).model_copy(update={"policy": policy, "chunked_prefill": ChunkedPrefill(token_budget=9)})
    serve(make_spec(config, asked(5)), tmp_path)
    for step in rows(tmp_path, "iteration"):
        assert step["prefill_tokens"] + step["decode_tokens"] + step["draft_tokens"] <= step["token_budget"] == 9
    assert sum(step["draft_tokens"] for step in rows(tmp_path, "iteration")) > 0


def test_guesses_never_throw_anybody_out_of_the_pool(tmp_path: Path):
    exact = sum(-(-(15 + i + 24 - 1) // 4) for i in range(3))  # every request to its last token
    guessing = speculating(k=16).model_copy(update={"kv_blocks": exact + 1})
    served = serve(make_spec(guessing, asked()), tmp_path)
    assert [r.preemptions for r in served] == [0, 0, 0]


def keep_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slice, "kept", property(lambda part: part.tokens))


def keep_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "give_back", lambda self, request, keep: None)


def stale_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(plan, **settings):
        batch = build_batch(plan, **settings)
        positions = batch.positions.clone()
        for chunk in batch.attention.chunks:
            positions[chunk.start : chunk.start + chunk.length] += 1
        return dataclasses.replace(batch, positions=positions)

    monkeypatch.setattr(executor, "build_batch", shifted)


def pad_output(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Outputs.append
    monkeypatch.setattr(Outputs, "append", lambda self, request, tokens: append(self, request, [*tokens, 0]) - 1)


def stale_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Engine.take

    def forgetful(self, part, tokens):
        take(self, part, tokens)
        part.request.draft = Draft([1])

    monkeypatch.setattr(Engine, "take", forgetful)


def finished_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "remove", lambda self, request: None)


def shared_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Scheduler.add
    states: list[Any] = []

    def same_for_all(self, request):
        states.append(request.sampling_state)
        request.sampling_state = states[0]
        add(self, request)

    monkeypatch.setattr(Scheduler, "add", same_for_all)


BUGS = [keep_rejected, keep_blocks, stale_positions, pad_output, stale_draft, finished_goes_on, shared_stream]


@pytest.mark.parametrize("bug", BUGS)
def test_debug_mode_detects_the_known_bugs(bug, wrong_guesses: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    spec = make_spec(speculating(proposer="prompt-lookup", k=5), asked())
    serve(spec, tmp_path / "right")
    bug(monkeypatch)
    with pytest.raises(IntegrityError):
        serve(spec, tmp_path / "wrong")


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("config", "field", "words"),
    [
        (speculating(k=8).model_copy(update={"chunked_prefill": ChunkedPrefill(token_budget=8)}), "speculation.k", "7 or less"),
        (speculating(proposer="prompt-lookup", ngram_min=16, ngram_max=16), "speculation.ngram_min", "15 or less"),
        (speculating(proposer="draft-model", draft_model="random:smollm2-135m"), "speculation.draft_model", "same family"),
        (speculating(proposer="draft-model", draft_model="random:none"), "speculation.draft_model", ""),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_its_mend(config: EngineConfig, field: str, words: str):
    with pytest.raises(EngineError) as caught:
        prepare(make_spec(config, asked(1)))
    assert caught.value.field == field
    assert words in caught.value.mend
    assert caught.value.mend


@pytest.mark.parametrize(
    "overrides",
    [
        {"speculation.proposer": "draft-model"},
        {"speculation.ngram_min": "5", "speculation.ngram_max": "3"},
        {"speculation.k": "0"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: dict[str, str]):
    with pytest.raises(ConfigError) as caught:
        apply_overrides(EngineConfig(), overrides)
    assert caught.value.field.startswith("speculation")


def test_on_means_lookup_with_the_length_that_pays():
    on = apply_overrides(EngineConfig(), {"speculation": "on"}).speculation
    assert on is not None
    assert (on.proposer, on.control) == ("prompt-lookup", "smart")
    assert apply_overrides(EngineConfig(), {"speculation.k": "5"}).speculation == Speculation(k=5)


def test_a_draft_without_room_in_the_pool_is_refused(monkeypatch: pytest.MonkeyPatch):
    """The model's part of the pool still fits; the draft model's does not."""
    config = speculating(proposer="draft-model", draft_model="random:tiny")
    prepared = prepare(make_spec(config, asked(1)))
    executor = allocate(prepared)

    def full(*shape: Any, **settings: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(cache.torch, "zeros", full)
    with pytest.raises(EngineError) as caught:
        make_speculator(prepared, executor.cache)
    assert caught.value.kind == "out-of-memory"
    assert caught.value.field == "speculation.draft_model"
    assert "kv_blocks" in caught.value.mend
