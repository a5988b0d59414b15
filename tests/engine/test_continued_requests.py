"""A request that continues another carries what that one was asked and really answered; and a prompt's share of hits is what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

import scenarios
from engine.config import EngineConfig, PrefixSharing, RequestSpec, Sampling
from engine.start.prepare import prepare
from tests.engine.serving import make_spec, serve

TALK = Sampling(temperature=0, ignore_eos=True)


def config(**settings) -> EngineConfig:
    return EngineConfig(
        model="random:tiny", device="cpu", dtype="float32", check_integrity=True, sampling=TALK, **settings
    )


def talk(turns: int, **keys) -> list[RequestSpec]:
    return [
        RequestSpec(
            request_id=f"r{n}",
            after=f"r{n - 1}" if n else None,
            continues=n > 0,
            prompt_token_ids=(5 + n, 6, 7),
            **{"max_tokens": 4} | keys,
        )
        for n in range(turns)
    ]


def test_a_turn_carries_the_whole_talk_with_the_answers_really_given(tmp_path: Path):
    served = serve(make_spec(config(), talk(3)[::-1]), tmp_path)[::-1]
    said: list[int] = []
    for n, request in enumerate(served):
        said += [5 + n, 6, 7]
        assert request.prompt_token_ids == said
        assert len(request.output_token_ids) == 4
        said += request.output_token_ids


@pytest.mark.parametrize("sharing", [None, PrefixSharing()])
def test_a_carried_talk_is_answered_as_the_same_prompt_alone(tmp_path: Path, sharing: PrefixSharing | None):
    last = serve(make_spec(config(prefix_sharing=sharing, block_size=4), talk(3)), tmp_path / "a")[-1]
    alone = RequestSpec(request_id="r", prompt_token_ids=tuple(last.prompt_token_ids), max_tokens=4)
    assert serve(make_spec(config(), [alone]), tmp_path / "b")[0].output_token_ids == last.output_token_ids
    assert (last.cached_tokens > 0) == (sharing is not None)


def test_a_talk_that_may_outgrow_the_model_is_refused_before_it_begins():
    spec = make_spec(config(max_model_len=16), talk(4))
    requests = prepare(spec).requests
    assert [r.refusal is None for r in requests] == [True, True, False, False]
    assert requests[1].max_tokens == 4
    assert "r2" in requests[2].refusal.field
    assert "17 tokens" in str(requests[2].refusal)
    assert "continues 'r2', which cannot be served" in str(requests[3].refusal)


def test_the_pool_has_room_for_what_is_carried(tmp_path: Path):
    requests = prepare(make_spec(config(kv_blocks=2, block_size=8), talk(3))).requests
    assert [r.refusal is None for r in requests] == [True, True, False]
    assert requests[2].refusal.field == "requests[r2].kv_blocks" or requests[2].refusal.field == "kv_blocks"


@pytest.mark.parametrize("keys", [{"after": None}, {"chat": True, "prompt": "a", "prompt_token_ids": None}])
def test_what_cannot_be_continued_is_refused(keys):
    asked = {"request_id": "r", "after": "q", "continues": True, "prompt_token_ids": (1,)} | keys
    with pytest.raises(ValidationError, match="continues"):
        RequestSpec(**asked)


def test_requests_that_continue_nothing_have_the_hash_they_always_had():
    spec = scenarios.build("ragged")
    assert spec.workload_hash == "e496b1484d06e940812f2d1e4c97e9e35ec877038b00e70b8c05683df2bcb3d4"
    assert (
        make_spec(config(), talk(2)).workload_hash
        != make_spec(config(), [r.model_copy(update={"continues": False}) for r in talk(2)]).workload_hash
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("lengths", ["48", '{"kind": "uniform", "low": 24, "high": 64}'])
def test_the_share_of_prompt_tokens_found_is_the_one_asked_for(tmp_path: Path, share: float, lengths: str):
    asked = {
        "workload.prompt.share": str(share),
        "workload.prompt.high": "255",
        "workload.prompt_tokens": lengths,
        "workload.output_tokens": "2",
        "workload.arrivals.kind": "at-once",
    }
    drawn = scenarios.build("hit-rate", asked)
    served = serve(make_spec(config(prefix_sharing=PrefixSharing()), drawn.requests), tmp_path)
    hit_rate = sum(r.cached_tokens for r in served) / sum(r.num_prompt_tokens for r in served)
    assert hit_rate == pytest.approx(share, abs=0.05 * share + 0.002)
