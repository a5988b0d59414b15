"""Running the real engine inside a test, and holding its tokens against transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import EngineConfig, RequestSpec, RunSpec
from engine.request import Request
from engine.start.build import allocate, build_engine
from engine.start.prepare import prepare
from engine.start.speculation import make_speculator
from engine.start.trial import try_out
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

TIE = 1e-4  # the reference's top two logits within this: either token is right


def make_spec(config: EngineConfig, requests: Sequence[RequestSpec]) -> RunSpec:
    return RunSpec(run_id="test", scenario="test", engine=config, requests=tuple(requests))


def serve(
    spec: RunSpec, run_dir: Path, stop: Callable[[], bool] = lambda: False, *, tried_out: bool = False
) -> list[Request]:
    """Serve a spec in this process, after guesses were tried out or not; returns its requests, all ended."""
    prepared = prepare(spec)
    executor = allocate(prepared)
    drafter = make_speculator(prepared, executor.cache)
    if tried_out:
        assert drafter is not None
        try_out(prepared, executor, drafter)
    with Recorder(run_dir, spec.engine.recording, clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock, executor, drafter)
        engine.run(prepared.requests, stop)
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0, "blocks left behind"
    assert all(r.end_reason is not None for r in prepared.requests)
    return prepared.requests


@dataclass
class Verdict:
    """Tokens held against the reference: how many, and how many of them were ties."""

    tokens: int = 0
    ties: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.tokens + other.tokens, self.ties + other.ties)


@torch.inference_mode()
def check_greedy(model: torch.nn.Module, request: Request) -> Verdict:
    """Every output token must be the reference's most likely one after everything before it, ties excused.

    One forward pass of ``transformers`` over prompt and output; by induction this is what greedy generation alone would give.
    """
    output = request.output_token_ids
    if not output:
        return Verdict()
    ids = torch.tensor([request.token_ids[:-1]])
    logits = model(ids).logits[0, request.num_prompt_tokens - 1 :].float()
    verdict = Verdict(tokens=len(output))
    for position, token in enumerate(output):
        best = int(logits[position].argmax())
        if token != best:
            gap = float(logits[position, best] - logits[position, token])
            assert gap <= TIE, (
                f"request {request.request_id}: output token {position} is {token}, the reference says {best} (ahead by {gap:.2e})"
            )
            verdict.ties += 1
    return verdict
