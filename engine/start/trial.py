"""A few iterations before the clock starts, with the run's own proposer: what guessing costs is known from the first
step.

Made-up requests, one and then as many as the run will have at once, decode a few tokens with guesses of scripted
lengths. That also pays for what the first guess of a process pays for. SmartSpec (2024) takes such times from a profile
made ahead (papers 2, T1-07); here they are the first of its regression's samples, and the run's own follow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.config import RequestSpec
from engine.config.errors import EngineError
from engine.executor import Executor
from engine.finite import KIND, not_finite
from engine.request import Draft, Request
from engine.scheduling.builder import PlanBuilder
from engine.scheduling.plan import Plan, Slice
from engine.speculation.base import Proposer
from engine.speculation.control import LengthControl
from engine.speculation.smart import measured
from engine.speculation.speculator import Speculator
from engine.speculation.step_time import Measured
from engine.start.build import build_engine
from engine.start.prepared import Prepared
from engine.start.requests import make_requests
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

PROMPT = 4  # tokens
RESTED = 5  # iterations that are planned ahead; the first and the last are not counted


class Scripted(LengthControl):
    """Guesses of the lengths it is given, iteration by iteration, and how long each took."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.most = max(lengths)
        self.measured: list[Measured] = []
        self._left = list(lengths)

    def done(self) -> bool:
        return not self._left

    def choose(self, builder: PlanBuilder, parts: Sequence[Slice], reach: Sequence[int]) -> list[int]:
        if not self._left or any(part.is_prefill for part in builder.plan.slices):
            return [0] * len(reach)
        length = self._left.pop(0)
        return [min(length, most) for most in reach]

    def learn(self, plan: Plan, duration_ns: int) -> None:
        if plan.slices and not any(part.is_prefill for part in plan.slices):
            self.measured.append(measured(plan, duration_ns))


class Resting(Scripted):
    """Guesses nothing, so that the loop plans ahead."""

    def __init__(self) -> None:
        super().__init__([0])

    def done(self) -> bool:
        return len(self.measured) >= RESTED

    def rest(self) -> bool:
        return True


class Echo(Proposer):
    """Guesses the last token over and over: for verifying what a proposer that has to find something would not find
    here."""

    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Draft]:
        return [Draft([request.token_ids[-1]] * length) for request, length in zip(requests, lengths, strict=True)]


def try_out(prepared: Prepared, executor: Executor, drafter: Speculator) -> None:
    """Let ``drafter`` guess for made-up requests on the run's own executor, and its control know what that took.

    Nothing of them stays: their blocks are free again, and the proposer has forgotten them.
    """
    script = drafter.control.rehearses
    most_tokens = PROMPT + 2 * len(script) + sum(script)
    counted = script[1:]  # the first pays for what is done once, where a model guesses
    useful = bool(counted) or (bool(script) and drafter.proposer.runs_model)
    config, layout = prepared.spec.engine, prepared.layout
    longest = min(prepared.max_model_len, layout.length * config.block_size or prepared.max_model_len)
    if not useful or most_tokens > longest:
        return
    fits = prepared.num_blocks // layout.blocks_of(most_tokens)
    most = min(fits, prepared.most_at_once, prepared.tails or fits)
    quiet = config.model_copy(
        update={
            "prefix_sharing": None,
            "speculation": None,
            "overlap": "off",
            "recording": "off",
            "check_integrity": False,
            "keep_text": False,
            "sampling": config.sampling.model_copy(update={"ignore_eos": True, "stop": ()}),
        }
    )
    measurements: list[Measured] = []
    for count in sorted({1, most} - {0}):
        asked = tuple(
            RequestSpec(request_id=str(i), prompt_token_ids=tuple(range(PROMPT)), max_tokens=most_tokens - PROMPT)
            for i in range(count)
        )
        trial = replace(
            prepared, spec=prepared.spec.model_copy(update={"engine": quiet, "requests": asked, "served": False})
        )
        proposer = drafter.proposer if drafter.proposer.runs_model else Echo()
        control = Scripted(script)
        _serve(trial, executor, Speculator(proposer, control, prepared.max_model_len), control)
        found = control.measured[1:]
        if prepared.overlaps:  # what it takes to guess nothing is what a step takes that is planned ahead
            ahead = trial.spec.model_copy(update={"engine": quiet.model_copy(update={"overlap": "on"})})
            resting = Resting()
            _serve(replace(trial, spec=ahead), executor, Speculator(Echo(), resting, prepared.max_model_len), resting)
            found = [one for one in found if one.load.verifies] + resting.measured[1:-1]
        measurements += found
    drafter.control.know(measurements)


def _serve(trial: Prepared, executor: Executor, drafter: Speculator, control: Scripted) -> None:
    """Serve the trial's requests until ``control`` is done."""
    requests = make_requests(trial.spec, trial.model, trial.device, trial.max_model_len)
    folder = tempfile.TemporaryDirectory(prefix="servescope-")
    with folder, Recorder(Path(folder.name), "off", clock := RunClock()) as recorder:
        engine = build_engine(replace(trial, requests=requests), recorder, clock, executor, drafter)
        try:
            engine.run(requests, control.done)
        except EngineError as error:
            if error.kind != KIND:
                raise
            what = "While guesses were tried out before the run, the model's logits were"
            raise not_finite(what, executor.dtype) from error
