"""What a run says of itself while a step is being computed: the step, who waits for it, and since when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig, RequestSpec, Sampling
from engine.progress import MOST_LISTED, in_flight, progress
from engine.start.build import allocate, build_engine
from engine.start.prepare import prepare
from store.in_flight import InFlight, in_flight_of
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.rows import IterationRow, columns
from tests.engine.serving import make_spec
from tests.row_maker import spooled

PROMPT = 40


def watched(tmp_path: Path, requests: list[RequestSpec], **settings: Any) -> tuple[Any, Any, list[InFlight]]:
    """Serve requests, and ask in the middle of every forward pass what is in flight."""
    config = EngineConfig(model="random:tiny", device="cpu", threads=1, kv_blocks=200, **settings)
    prepared = prepare(make_spec(config, requests))
    executor = allocate(prepared)
    seen: list[InFlight] = []
    with Recorder(tmp_path, "full", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock, executor)
        forward = executor.forward

        def and_look(batch: Any) -> Any:
            written = in_flight_of({"in_flight": in_flight(engine)})
            assert written is not None
            seen.append(written)
            return forward(batch)

        executor.forward = and_look  # type: ignore[method-assign]
        engine.run(prepared.requests)
    return engine, prepared, seen


def asked(count: int, tokens: int = 6, **more: Any) -> list[RequestSpec]:
    return [
        RequestSpec(
            request_id=str(n),
            prompt_token_ids=tuple(range(n % 400, n % 400 + PROMPT)),
            max_tokens=tokens,
            sampling=Sampling(ignore_eos=True),
            **more,
        )
        for n in range(count)
    ]


def test_a_step_in_flight_says_when_it_began_and_what_it_computes(tmp_path: Path) -> None:
    engine, _, seen = watched(tmp_path, asked(3), max_num_seqs=2, overlap="off", chunked_prefill={"token_budget": 256})
    first, second = seen[0], seen[1]
    assert first.step is not None
    assert second.step is not None
    assert (first.iterations, first.step.iteration, first.running, first.waiting) == (0, 0, 2, 1)
    assert (first.step.prefill_tokens, first.step.decode_requests) == (2 * PROMPT, 0)
    assert (second.step.prefill_tokens, second.step.decode_requests) == (0, 2)
    assert first.step.flops > second.step.flops > 0
    assert first.step.start_ns <= first.at_ns <= second.step.start_ns
    assert [r.first_token_ns for r in first.requests] == [None] * 3
    begun = [r for r in second.requests if r.first_token_ns is not None]
    assert [r.request for r in begun] == [0, 1]
    assert all(r.last_token_ns == r.first_token_ns <= second.at_ns for r in begun)
    assert in_flight(engine)["step"] is None, "nothing is in flight once the run is over"
    assert in_flight(engine)["requests"] == []


def test_requests_that_arrive_during_a_step_wait_already(tmp_path: Path) -> None:
    late = RequestSpec(request_id="late", prompt_token_ids=(1, 2, 3), max_tokens=2, arrival_ns=1)
    _, _, seen = watched(tmp_path, [*asked(1), late], max_num_seqs=1, overlap="off")
    assert any(flight.waiting and flight.step and flight.step.iteration == 0 for flight in seen)


@pytest.mark.parametrize("overlap", ["off", "on"])
def test_steps_in_flight_come_in_order(overlap: str, tmp_path: Path) -> None:
    _, _, seen = watched(tmp_path, asked(2), overlap=overlap)
    steps = [flight.step.iteration for flight in seen if flight.step is not None]
    assert steps == sorted(steps)
    assert len(steps) >= len(seen) - 1
    for flight in seen:
        assert flight.step is None or flight.step.iteration == flight.iterations


def test_very_many_requests_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    _, _, seen = watched(tmp_path, asked(MOST_LISTED + 10, 1), max_num_seqs=1)
    assert (seen[0].running, seen[0].waiting, len(seen[0].requests)) == (1, MOST_LISTED + 9, MOST_LISTED)
    assert seen[0].requests[0].request == 0


def test_requests_that_were_cancelled_are_not_done(tmp_path: Path) -> None:
    given_up = asked(2)[1].model_copy(update={"cancel_after_ns": 0})
    engine, prepared, _ = watched(tmp_path, [asked(1)[0], given_up])
    told = progress(engine, prepared)
    assert (told["requests_done"], told["requests_ended"], told["requests_total"]) == (1, 2, 2)
    assert engine.totals.requests_finished == 1


def test_prompts_count_whole_when_their_first_token_comes_and_are_looked_up_once(tmp_path: Path) -> None:
    same = [r.model_copy(update={"prompt_token_ids": tuple(range(PROMPT))}) for r in asked(3)]
    watched(tmp_path / "shared", same, max_num_seqs=1, prefix_sharing={})
    watched(tmp_path / "alone", same, max_num_seqs=1)
    for name, looked_up in (("shared", 3 * PROMPT), ("alone", 0)):
        rows = spooled(tmp_path / name, "iteration")
        totals = {
            column: sum(row[column] for row in rows)
            for column in columns(IterationRow)
            if "prompt" in column or "prefix" in column
        }
        assert totals["prompt_tokens"] == 3 * PROMPT
        assert totals["prefix_query_tokens"] == looked_up
        assert (0 < totals["prefix_hit_tokens"] < looked_up) == (name == "shared")
