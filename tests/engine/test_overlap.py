"""The overlapped loop: the tokens of the plain one, each given once, with the next step launched before they are read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import ChunkedPrefill, EngineConfig, PrefixSharing, RequestSpec, Sampling
from engine.config.errors import IntegrityError
from engine.executor import Executor
from engine.overlap import Flight
from engine.request import Request
from engine.scheduling.plan import Plan
from engine.scheduling.policies import POLICIES
from engine.scheduling.scheduler import Scheduler
from tests.engine.drawn import drawn_prompts, drawn_requests, most_blocks
from tests.engine.serving import make_spec, serve
from tests.engine.test_speculation import rows
from tests.examples import examples


def config(**settings) -> EngineConfig:
    common = {"model": "random:tiny", "device": "cpu", "dtype": "float32", "threads": 1, "check_integrity": True}
    return EngineConfig(**common | settings)


def asked(count: int, output: int = 12) -> list[RequestSpec]:
    return [
        RequestSpec(request_id=str(i), prompt_token_ids=tuple(range(20 + i, 31 + 3 * i)), max_tokens=output + i)
        for i in range(count)
    ]


def both(settings: EngineConfig, requests: list[RequestSpec], run_dir: Path) -> tuple[list[Request], list[Request]]:
    plain, overlapped = (
        serve(make_spec(settings.model_copy(update={"overlap": value}), requests), run_dir / value)
        for value in ("off", "on")
    )
    return plain, overlapped


@pytest.mark.parametrize("overlap", ["off", "on"])
def test_a_run_for_which_nothing_can_be_computed_ends(overlap: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Such as one whose books say that more is computed than known: it would go on for ever."""
    plan = Scheduler.plan
    monkeypatch.setattr(Scheduler, "plan", lambda scheduler: Plan() if scheduler.running else plan(scheduler))
    with pytest.raises(IntegrityError, match="has nothing to compute, while 2 requests run and 0 wait"):
        serve(make_spec(config(overlap=overlap), asked(2)), tmp_path)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(ignore_eos=True),
        Sampling(temperature=1.2, ignore_eos=True),
        Sampling(temperature=0.9, top_k=20, repetition_penalty=1.4),
        Sampling(temperature=2.0, stop=("e", "7")),
    ],
    ids=["greedy", "temperature", "penalty", "stop strings"],
)
@pytest.mark.parametrize("kv_blocks", [64, 7], ids=["room", "preemption"])
def test_text_is_that_of_the_plain_loop(sampling: Sampling, kv_blocks: int, tmp_path: Path):
    plain, overlapped = both(config(sampling=sampling, kv_blocks=kv_blocks, block_size=8), asked(5), tmp_path)
    assert [r.output_token_ids for r in overlapped] == [r.output_token_ids for r in plain]
    assert [r.end_reason for r in overlapped] == [r.end_reason for r in plain]
    assert [r.text for r in overlapped] == [r.text for r in plain]
    assert kv_blocks == 64 or sum(r.preemptions for r in overlapped) > 0


@given(data=st.data())
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_changes_a_token(data: st.DataObject, tmp_path: Path):
    block_size = data.draw(st.sampled_from([4, 16]), label="block_size")
    prompts = drawn_prompts(st.integers(3, 9), longest=30, most=6)
    asked = drawn_requests(prompts, max_tokens=14, arrival_ns=st.integers(0, 5_000_000))
    requests = data.draw(asked, label="requests")
    longest = most_blocks(requests, block_size)
    chosen = config(
        block_size=block_size,
        kv_blocks=longest + data.draw(st.integers(0, longest), label="spare blocks"),
        policy=data.draw(st.sampled_from(sorted(POLICIES)), label="policy"),
        chunked_prefill=ChunkedPrefill(token_budget=data.draw(st.integers(1, 40), label="budget")),
        prefix_sharing=data.draw(st.sampled_from([None, PrefixSharing()]), label="prefix sharing"),
        max_num_seqs=data.draw(st.integers(1, 6), label="max_num_seqs"),
        max_model_len=data.draw(st.sampled_from([None, 36]), label="max_model_len"),
        sampling=Sampling(
            temperature=data.draw(st.sampled_from([0.0, 1.0]), label="temperature"),
            ignore_eos=data.draw(st.booleans(), label="ignore_eos"),
        ),
    )
    plain, overlapped = both(chosen, requests, tmp_path)
    assert [r.output_token_ids for r in overlapped] == [r.output_token_ids for r in plain]
    assert [r.end_reason for r in overlapped] == [r.end_reason for r in plain]


def test_a_row_computed_for_nothing_gives_nothing(tmp_path: Path):
    settings = config(sampling=Sampling(temperature=2.0, stop=("e", "7")), overlap="on")
    served = serve(make_spec(settings, asked(6)), tmp_path)
    assert any(r.end_reason == "stop_string" for r in served), "nobody ended early, so nothing is proven"
    tokens = sum(r.num_output_tokens for r in served)
    steps, slices = rows(tmp_path, "iteration"), rows(tmp_path, "slice")
    assert sum(step["emitted_tokens"] for step in steps) == tokens
    assert sum(part["emitted"] for part in slices) == tokens
    assert sum(step["decode_tokens"] for step in steps) > tokens - len(served)


def test_steps_follow_each_other_in_the_rows(tmp_path: Path):
    serve(make_spec(config(overlap="on", sampling=Sampling(ignore_eos=True)), asked(3)), tmp_path)
    steps = rows(tmp_path, "iteration")
    assert [step["iteration"] for step in steps] == list(range(len(steps)))
    for before, after in pairwise(steps):
        assert before["end_ns"] <= after["start_ns"] <= after["end_ns"]


def test_the_next_step_is_launched_before_tokens_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    forward, arrive = Executor.forward, Flight.arrive
    monkeypatch.setattr(Executor, "forward", lambda self, batch: order.append("launch") or forward(self, batch))
    monkeypatch.setattr(Flight, "arrive", lambda self: order.append("read") or arrive(self))
    serve(make_spec(config(overlap="on", sampling=Sampling(ignore_eos=True)), asked(1, output=4)), tmp_path)
    assert order == ["launch", "launch", "read", "launch", "read", "launch", "read", "read"]
