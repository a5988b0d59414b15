"""The teaching variants of verification give the same tokens; each known bug breaks them or the books, and debug mode notices."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from engine.config import (
    ConfigError,
    EngineConfig,
    PrefixSharing,
    RequestSpec,
    Sampling,
    Speculation,
    apply_overrides,
)
from engine.config.errors import EngineError, IntegrityError
from engine.request import Draft, Request
from engine.speculation.lookup import PromptLookup
from engine.start.bugs import BUGS
from engine.start.build import build_engine
from engine.start.prepare import prepare
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.draft_models import periodic
from tests.engine.serving import make_spec, serve


def config(verification: str = "padded", bug: str = "none", checked: bool = True, **changes) -> EngineConfig:
    values = {
        "model": "random:tiny",
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "kv_blocks": 512,
        "block_size": 4,
        "sampling": Sampling(temperature=1.0, ignore_eos=True),  # drawn text answers to small changes
        "check_integrity": checked,
        "recording": "off",
        "speculation": Speculation(control="fixed", k=4, verification=verification, inject_bug=bug, ngram_min=1),
    }
    return EngineConfig(**(values | changes))


def asked(count: int = 4) -> list[RequestSpec]:
    return [
        RequestSpec(request_id=str(i), prompt_token_ids=periodic(i, 10 + 3 * i), max_tokens=24 + i)
        for i in range(count)
    ]


@pytest.fixture
def half_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guesses are the first tokens of what comes, then wrong ones: every request accepts another number."""
    plain = serve(make_spec(config().model_copy(update={"speculation": None}), asked()), tmp_path / "plain")
    texts = {request.request_id: request.token_ids for request in plain}

    def propose(self: PromptLookup, requests: list[Request], lengths: list[int]) -> list[Draft]:
        drafts = []
        for request, length in zip(requests, lengths, strict=True):
            known, right = len(request.token_ids), (request.index + len(request.token_ids)) % 4
            truth = texts[request.request_id][known : known + length]
            drafts.append(Draft([t if i < right else (t + 1) % 200 for i, t in enumerate(truth)]))
        return drafts

    monkeypatch.setattr(PromptLookup, "propose", propose)


def tokens(served: list[Request]) -> list[list[int]]:
    return [r.token_ids for r in sorted(served, key=lambda r: r.index)]


@pytest.mark.parametrize("verification", ["padded", "same-length"])
def test_variants_give_the_tokens_of_ragged_verification(verification: str, half_right: None, tmp_path: Path):
    plain = serve(make_spec(config().model_copy(update={"speculation": None}), asked()), tmp_path / "p")
    served = serve(make_spec(config(verification), asked()), tmp_path / "v")
    assert tokens(served) == tokens(plain)
    assert 0 < sum(r.accepted_tokens for r in served) < sum(r.drafted_tokens for r in served)


def run(settings: EngineConfig, folder: Path, steps: int = 400):
    """Serve with this engine at hand; gives up after some steps: a bug may keep requests from ending."""
    prepared = prepare(make_spec(settings, asked()))
    with Recorder(folder, "off", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests, lambda: engine.totals.iterations >= steps)
    return engine, prepared


def test_padding_costs_what_equal_lengths_do_not(half_right: None, tmp_path: Path):
    padded, _ = run(config("padded"), tmp_path / "padded")
    pool, _ = run(config("same-length"), tmp_path / "pool")
    assert padded.executor.attention.counts.padded_keys > 0
    assert padded.executor.attention.counts.padded_tokens > 0
    assert padded.executor.attention.counts.aligned_keys > 0
    assert pool.executor.attention.counts.padded_keys == 0
    assert pool.totals.iterations >= padded.totals.iterations


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_debug_mode_notices_every_known_bug(bug: str, half_right: None, tmp_path: Path):
    run(config("padded"), tmp_path / "right")
    with pytest.raises(IntegrityError):
        run(config("padded", bug), tmp_path / "wrong")


@pytest.mark.parametrize("bug", ["visible-padding", "no-rollback", "padding-in-text"])
def test_without_the_checks_output_breaks(bug: str, half_right: None, tmp_path: Path):
    """Other text, or books so wrong that a later step cannot be computed."""
    _, right = run(config("padded"), tmp_path / "right")
    prepared = prepare(make_spec(config("padded", bug, checked=False), asked()))
    assert f"known bug: {bug}" in prepared.notices
    try:
        with Recorder(tmp_path / "wrong", "off", clock := RunClock()) as recorder:
            build_engine(prepared, recorder, clock).run(prepared.requests)
    except IndexError:
        assert bug in ("no-rollback", "padding-in-text")
        return
    assert tokens(prepared.requests) != tokens(right.requests)


def test_every_bug_can_be_asked_for():
    choices = get_args(Speculation.model_fields["inject_bug"].annotation)
    assert set(choices) == {"none", *BUGS}


def test_what_contradicts_padding_is_refused():
    with pytest.raises(ConfigError):
        apply_overrides(EngineConfig(), {"speculation.inject_bug": "visible-padding"})
    sharing = PrefixSharing(attention="one-level", min_prefix_tokens=4)
    with pytest.raises(EngineError) as caught:
        prepare(make_spec(config(prefix_sharing=sharing), asked()))
    assert caught.value.field == "speculation.verification"
    assert caught.value.mend
    with pytest.raises(ConfigError) as refused:
        apply_overrides(config(), {"kv_quantization.codec": "int8"})
    assert "set it to ragged" in str(refused.value)
