"""How requests end, and what their output says."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path

import pytest

from engine.config import EngineConfig, RequestSpec, Sampling
from engine.request import Request
from engine.stopping import output_digest
from tests.engine.serving import make_spec, serve

TINY = EngineConfig(model="random:tiny", device="cpu", dtype="float32", threads=1, kv_blocks=128)
PROMPT = tuple(range(40, 60))


def greedy(tmp_path: Path, name: str, sampling: Sampling, max_tokens: int = 40, **values) -> Request:
    asked = RequestSpec(request_id="r", prompt_token_ids=PROMPT, max_tokens=max_tokens, sampling=sampling, **values)
    return serve(make_spec(TINY, [asked]), tmp_path / name)[0]


def test_token_limit_ends_a_request(tmp_path: Path):
    request = greedy(tmp_path, "a", Sampling(ignore_eos=True))
    assert (request.end_reason, request.num_output_tokens) == ("length", 40)


def test_longest_sequence_ends_a_request(tmp_path: Path):
    config = TINY.model_copy(update={"max_model_len": 30})
    asked = RequestSpec(request_id="r", prompt_token_ids=PROMPT, max_tokens=40, sampling=Sampling(ignore_eos=True))
    request = serve(make_spec(config, [asked]), tmp_path)[0]
    assert (request.end_reason, request.num_known_tokens) == ("length", 30)


def test_stop_string_ends_a_request_and_is_cut_from_its_text(tmp_path: Path):
    free = greedy(tmp_path, "free", Sampling(ignore_eos=True))
    stop = next(free.text[i : i + 2] for i in range(3, len(free.text) - 2) if free.text[i : i + 2].isprintable())
    stopped = greedy(tmp_path, "stopped", Sampling(ignore_eos=True, stop=(stop,)))
    assert stopped.end_reason == "stop_string"
    assert stop not in stopped.text
    assert free.text.startswith(stopped.text + stop)
    assert stopped.output_token_ids == free.output_token_ids[: stopped.num_output_tokens]


def test_texts_are_left_out_when_not_wanted(tmp_path: Path):
    asked = RequestSpec(request_id="r", prompt_token_ids=PROMPT, max_tokens=4)
    request = serve(make_spec(TINY.model_copy(update={"keep_text": False}), [asked]), tmp_path)[0]
    assert request.text == ""


@pytest.mark.parametrize("policy", ["stall-free", "prefill-first", "static"])
def test_sampled_text_does_not_depend_on_company(policy: str, tmp_path: Path):
    sampling = Sampling(temperature=0.9, top_p=0.95, repetition_penalty=1.1, ignore_eos=True)
    config = TINY.model_copy(update={"policy": policy, "kv_blocks": 12, "seed": 5})
    requests = [
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=tuple(range(30 + i, 45 + 3 * i)),
            max_tokens=24,
            sampling=sampling,
            seed=100 + i,
        )
        for i in range(5)
    ]
    together = serve(make_spec(config, requests), tmp_path / "together")
    assert sum(r.preemptions for r in together) > 0 or policy == "static"
    for index, asked in enumerate(requests):
        alone = serve(make_spec(config, [asked]), tmp_path / f"alone-{index}")[0]
        assert alone.output_token_ids == together[index].output_token_ids


def test_seed_changes_sampled_text(tmp_path: Path):
    sampling = Sampling(temperature=1.0, ignore_eos=True)
    outputs = {tuple(greedy(tmp_path, str(seed), sampling, seed=seed).output_token_ids) for seed in range(3)}
    assert len(outputs) == 3


def test_digest_is_over_token_ids_in_request_order():
    first, second = (Request(i, RequestSpec(request_id=str(i), prompt="-"), [1, 2], Sampling(), 4) for i in range(2))
    first.token_ids += [5, 6]
    second.token_ids += [7]
    expected = hashlib.sha256(array("q", [0, 2, 5, 6, 1, 1, 7]).tobytes()).hexdigest()
    assert output_digest([second, first]) == expected
    second.token_ids += [8]
    assert output_digest([first, second]) != expected
