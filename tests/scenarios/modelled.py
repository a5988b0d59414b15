"""The real scheduler, pool, arrivals and loop, on a machine whose steps take what a formula says.

A step takes ``base + token x tokens + sequence x sequences + pair x (query, key) pairs`` milliseconds. The clock is moved by that and by
nothing else, so a run is the same on every machine and takes no longer than the scheduling does. Tokens are those of a script: by default
one that never ends a request early; a script that says what is to come lets guesses be right.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from engine.batch import Batch, build_batch
from engine.config import EngineConfig, RunSpec
from engine.config.rates import BATCH, MachineRates
from engine.loop import Engine, Totals
from engine.model.load import LoadedModel, load
from engine.request import Request
from engine.scheduling.plan import Plan
from engine.start.build import allocate, build_engine
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.speculation import make_speculator
from engine.start.warmup import warm_up
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

ANY_TOKEN = 5  # ends nothing
Script = Callable[[Request, int], int]


@dataclass(frozen=True)
class Machine:
    """How long a step takes, in ms."""

    base: float
    token: float
    sequence: float
    pair: float
    prompt: int = 256  # tokens of the prompt that its rate is measured with

    def times(self, factor: float) -> Machine:
        """The same machine, so many times as slow."""
        return Machine(*(factor * cost for cost in (self.base, self.token, self.sequence, self.pair)), self.prompt)

    def step_ms(self, plan: Plan) -> float:
        pairs = sum(part.tokens * (part.context_len + part.tokens / 2) for part in plan.slices)
        return self.base + self.token * plan.num_tokens + self.sequence * len(plan.slices) + self.pair * pairs

    def rates(self, config: EngineConfig | None = None) -> MachineRates:
        """What ``engine.timing`` would find here."""
        whole = self.base + self.sequence + self.token * self.prompt + self.pair * self.prompt**2 / 2
        return MachineRates(
            prefill_tokens_per_s=1e3 * self.prompt / whole,
            step_ms=self.base + self.token + self.sequence,
            batch_step_ms=self.base + BATCH * (self.token + self.sequence),
            tokens_per_word=1.4,
        )


# Measured on two cores (see test_expectations.py), and what the other machines are like.
TWO_CORES = Machine(base=22, token=1.05, sequence=1.5, pair=0.0005)
MACHINES = {
    "two cores": TWO_CORES,
    "half the speed": TWO_CORES.times(2),
    "one core": Machine(base=40, token=3.0, sequence=3.0, pair=0.001),
    "slow float32": Machine(base=30, token=3.6, sequence=2.0, pair=0.001),
    "slow prompts": Machine(base=5, token=10, sequence=0.5, pair=0.001),
    "many cores": Machine(base=6, token=0.1, sequence=0.3, pair=0.00005),
    "GPU": Machine(base=3, token=0.008, sequence=0.01, pair=0.000001, prompt=4096),
}


@dataclass
class Served:
    """What came of a run on the modelled machine; times in ms."""

    requests: list[Request]
    totals: Totals
    token_ms: dict[int, list[float]] = field(default_factory=dict)  # by request: when each token came
    duration_ms: float = 0.0
    prefill_tokens: int = 0
    capacity_tokens: int = 0  # of the KV pool

    def of(self, group: str | None = None) -> Iterator[Request]:
        return (r for r in self.requests if group in (None, r.spec.group))

    def itl(self, share: float, group: str | None = None) -> float:
        """A percentile of all gaps between neighbouring tokens."""
        gaps = [np.diff(self.token_ms[r.index]) for r in self.of(group)]
        return float(np.percentile(np.concatenate(gaps), 100 * share))

    def ttft(self, group: str | None = None) -> float:
        """The median time to the first token."""
        return float(np.median([self.token_ms[r.index][0] - r.arrival_ns / 1e6 for r in self.of(group)]))

    def tpot(self, group: str | None = None) -> float:
        """The mean time per output token after the first."""
        return float(np.mean([np.diff(self.token_ms[r.index]).mean() for r in self.of(group)]))

    @property
    def tokens_per_s(self) -> float:
        return self.totals.output_tokens / self.duration_ms * 1e3


class ModelledClock(RunClock):
    """Stands still unless it is moved."""

    __slots__ = ("at_ns",)

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns


def serve_modelled(spec: RunSpec, machine: Machine, script: Script = lambda request, place: ANY_TOKEN) -> Served:
    """Serve a spec on the modelled machine. ``script``: a request's output token at a place."""
    quiet = spec.model_copy(update={"engine": spec.engine.model_copy(update={"keep_text": False, "overlap": "off"})})
    with patch("engine.start.prepare.load", _loaded):
        prepared = prepare(quiet)
    clock = ModelledClock()
    folder = tempfile.TemporaryDirectory()
    with folder, Recorder(Path(folder.name), "off", clock) as recorder:
        engine, served = _engine(prepared, recorder, clock, machine, script)
        engine.run(prepared.requests)
    served.duration_ms = clock.at_ns / 1e6
    return served


def serve_here(spec: RunSpec, slowdown: float = 1.0) -> Served:
    """Serve a spec on the real engine and this machine's clock. ``slowdown``: each forward pass takes so many times as long."""
    prepared = prepare(spec)
    warm_up(prepared)
    executor = allocate(prepared)
    folder = tempfile.TemporaryDirectory()
    with folder, Recorder(Path(folder.name), "off", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock, executor, make_speculator(prepared, executor.cache))
        served = Served(prepared.requests, engine.totals, capacity_tokens=prepared.kv_capacity_tokens)
        build, forward, tokens = executor.build, executor.forward, executor.tokens

        def counted(plan: Plan) -> Batch:
            served.prefill_tokens += sum(part.tokens for part in plan.slices if part.is_prefill)
            return build(plan)

        def slowed(batch: Batch) -> torch.Tensor:
            began = time.perf_counter()
            logits = forward(batch)
            until = began + slowdown * (time.perf_counter() - began)
            while time.perf_counter() < until:
                pass
            return logits

        def timed(batch: Batch, logits: torch.Tensor) -> list[list[int]]:
            emitted = tokens(batch, logits)
            for part, taken in zip(batch.sampled, emitted, strict=True):
                room = part.request.max_tokens - part.request.num_output_tokens
                times = served.token_ms.setdefault(part.request.index, [])
                times.extend([clock.now_ns() / 1e6] * min(len(taken), room))
            return emitted

        executor.build, executor.forward, executor.tokens = counted, slowed, timed  # type: ignore[method-assign]
        engine.run(prepared.requests)
        served.duration_ms = clock.now_ns() / 1e6
    return served


@cache
def _load_once(source: Any, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    return load(source, device, dtype)


def _loaded(source: Any, device: torch.device, dtype: torch.dtype, **others: Any) -> LoadedModel:
    """The model, for its tokenizer and its shape: nothing is computed with it."""
    return _load_once(source, device, dtype)


def _engine(
    prepared: Prepared, recorder: Recorder, clock: ModelledClock, machine: Machine, script: Script
) -> tuple[Engine, Served]:
    build = partial(build_batch, block_size=prepared.spec.engine.block_size, device=prepared.device)
    executor: Any = SimpleNamespace(
        cache=SimpleNamespace(block_size=prepared.spec.engine.block_size, copy_block=lambda *_: None, far=None),
        spared_tokens=lambda batch: 0,
        padding=lambda batch: (0, 0),
        forward=lambda batch: torch.empty(0),
        left=torch.empty(0),
    )
    engine = build_engine(prepared, recorder, clock, executor, make_speculator(prepared, executor.cache))
    served = Served(prepared.requests, engine.totals, capacity_tokens=prepared.kv_capacity_tokens)

    def timed(plan: Plan) -> Batch:
        clock.at_ns += round(machine.step_ms(plan) * 1e6)
        served.prefill_tokens += sum(part.tokens for part in plan.slices if part.is_prefill)
        return build(plan)

    def tokens(batch: Batch, logits: torch.Tensor) -> list[list[int]]:
        emitted = []
        for part in batch.sampled:
            request, taken = part.request, []
            for guess in [*request.draft.tokens, None]:
                taken.append(script(request, request.num_output_tokens + len(taken)))
                if taken[-1] != guess:
                    break
            room = request.max_tokens - request.num_output_tokens
            emitted.append(taken[:room])
            served.token_ms.setdefault(request.index, []).extend([clock.at_ns / 1e6] * len(emitted[-1]))
        return emitted

    def nap() -> None:
        due = engine.arrivals.next_ns
        clock.at_ns = max(clock.at_ns, due or 0)

    executor.build, executor.tokens = timed, tokens
    engine._nap = nap  # type: ignore[method-assign]
    return engine, served
