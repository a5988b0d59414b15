"""Speculation never changes a token: greedy output equals transformers', whoever guesses, however far, beside whatever else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import ChunkedPrefill, EngineConfig, PrefixSharing, RequestSpec, Sampling, Speculation
from engine.scheduling.policies import POLICIES
from engine.speculation import CONTROLS
from engine.speculation.control import FixedLength
from tests.engine.draft_models import EOS, periodic, small_models, trained_head
from tests.engine.serving import Verdict, check_greedy, make_spec, serve
from tests.examples import examples

PROPOSERS = ("prompt-lookup", "layer-skip", "draft-model", "trained-head")


class AtWill(FixedLength):
    """Rests for some iterations, which the overlapped loop plans ahead, and guesses in the others."""

    rested: int

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self.rehearses = ()
        self._draw = random.Random(k)
        AtWill.rested = 0

    def rest(self) -> bool:
        rests = self._draw.random() < 0.6
        AtWill.rested += rests
        return rests


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("models")
    whole, target, draft = small_models(folder)
    return whole, target, draft, trained_head(target, folder / "head")[0]


def engine_config(models, proposer: str, k: int, **changes) -> EngineConfig:
    speculation = Speculation(
        **{"proposer": proposer, "k": k, "control": "fixed", "draft_model": str(models[2]), "head": str(models[3])}
        | changes.pop("speculation", {})
    )
    values = {
        "model": str(models[1]),
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "block_size": 4,
        "kv_blocks": 1024,
        "sampling": Sampling(ignore_eos=True),
        "check_integrity": True,
        "recording": "off",
        "speculation": speculation,
    }
    return EngineConfig(**(values | changes))


@pytest.mark.parametrize("k", [pytest.param(k, marks=() if k in (1, 3, 8) else pytest.mark.rare) for k in range(1, 9)])
@pytest.mark.parametrize("proposer", PROPOSERS)
def test_tokens_are_those_of_the_model_alone(proposer: str, k: int, models, tmp_path: Path):
    drafted = accepted = 0
    for batch in (1, 4, 16):
        asked = [
            RequestSpec(request_id=str(i), prompt_token_ids=periodic(i), max_tokens=60 + i % 3) for i in range(batch)
        ]
        served = serve(make_spec(engine_config(models, proposer, k), asked), tmp_path / str(batch))
        verdict = sum((check_greedy(models[0], r) for r in served), Verdict())
        assert verdict.ties <= max(1, verdict.tokens // 1000)
        assert [r.num_output_tokens for r in served] == [r.max_tokens for r in served]
        drafted += sum(r.drafted_tokens for r in served)
        accepted += sum(r.accepted_tokens for r in served)
    assert drafted / 10 < accepted < drafted, "too little was accepted, or nothing rejected: this proves nothing"


@pytest.mark.parametrize("proposer", PROPOSERS)
def test_steps_without_guesses_are_planned_ahead(
    proposer: str, models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTROLS, "smart", AtWill)
    config = engine_config(models, proposer, 3, speculation={"control": "smart"}, overlap="on")
    asked = [RequestSpec(request_id=str(i), prompt_token_ids=periodic(i), max_tokens=60 + i % 3) for i in range(4)]
    served = serve(make_spec(config, asked), tmp_path)
    assert sum((check_greedy(models[0], r) for r in served), Verdict()).ties <= 1
    assert [r.num_output_tokens for r in served] == [r.max_tokens for r in served]
    assert AtWill.rested > 5
    assert sum(r.accepted_tokens for r in served) > 5


@given(data=st.data())
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_of_settings_changes_a_token(data: st.DataObject, models, tmp_path: Path):
    block_size = data.draw(st.sampled_from([1, 4, 16]), label="block_size")
    requests, longest = [], 0
    for index in range(data.draw(st.integers(1, 7), label="requests")):
        start = data.draw(st.lists(st.integers(8, 199), min_size=1, max_size=8), label=f"prompt {index}")
        prompt = tuple(start * data.draw(st.integers(1, 4), label=f"repeats {index}"))
        max_tokens = data.draw(st.integers(1, 24), label=f"max_tokens {index}")
        longest = max(longest, -(-(len(prompt) + max_tokens) // block_size))
        requests.append(
            RequestSpec(
                request_id=str(index),
                prompt_token_ids=prompt,
                max_tokens=max_tokens,
                priority=data.draw(st.integers(0, 2), label=f"priority {index}"),
                arrival_ns=data.draw(st.integers(0, 20_000_000), label=f"arrival {index}"),
                cancel_after_ns=data.draw(st.none() | st.integers(0, 30_000_000), label=f"cancel {index}"),
            )
        )
    k = data.draw(st.integers(1, 8), label="k")
    config = engine_config(
        models,
        data.draw(st.sampled_from(PROPOSERS), label="proposer"),
        k,
        speculation={
            "ngram_min": 1,
            "target_speedup": data.draw(st.sampled_from([1.0, 1.3, 2.0, 4.0]), label="speedup"),
            "control": data.draw(st.sampled_from(["fixed", "smart"]), label="control"),
        },
        block_size=block_size,
        kv_blocks=longest + data.draw(st.integers(0, 2 * longest), label="spare blocks"),
        policy=data.draw(st.sampled_from(sorted(POLICIES)), label="policy"),
        chunked_prefill=data.draw(
            st.builds(ChunkedPrefill, token_budget=st.integers(k + 1, 48), chunk_size=st.none() | st.integers(1, 24)),
            label="chunked_prefill",
        ),
        prefix_sharing=data.draw(st.none() | st.builds(PrefixSharing), label="prefix_sharing"),
        attention_backend=data.draw(st.sampled_from(["reference", "gathered", "native"]), label="backend"),
        overlap=data.draw(st.sampled_from(["on", "off"]), label="overlap"),
        max_num_seqs=data.draw(st.integers(1, 8), label="max_num_seqs"),
        max_num_batched_tokens=data.draw(st.integers(1, 64), label="max_num_batched_tokens"),
        sampling=Sampling(ignore_eos=data.draw(st.booleans(), label="ignore_eos")),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONTROLS, "smart", AtWill)
        served = serve(make_spec(config, requests), tmp_path)
    verdict = sum((check_greedy(models[0], r) for r in served), Verdict())
    assert verdict.ties <= max(1, verdict.tokens // 1000)
    for request in served:
        output = request.output_token_ids
        assert request.accepted_tokens <= request.drafted_tokens
        if request.end_reason == "stop":
            assert output.index(EOS) == len(output) - 1, "went on after the end of sequence"
            assert not config.sampling.ignore_eos
        elif request.end_reason == "length":
            assert len(output) == request.max_tokens
        else:
            assert request.end_reason == "cancelled"
