"""What the GPU measurements share: sizes of a full and a dry run, engines on random weights, device time, the measured limit."""

from __future__ import annotations

import dataclasses
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Report
from engine.config import EngineConfig, RequestSpec, RunSpec, Sampling
from engine.executor import Executor
from engine.model import load
from engine.model.shape import RANDOM
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.build import allocate, build_engine
from engine.start.peaks import measure_peaks
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.requests import make_requests
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

TELLING_GAIN = 1.2
COMMON_REQUESTS = 256
COMMON_OUTPUT_TOKENS = 133_966  # of the whole workload, as published with it


@dataclass
class Bench:
    """One run of the measurements. ``dry``: the same code on tiny shapes, for a machine without a GPU."""

    report: Report
    device: torch.device
    dry: bool
    peaks: dict[str, float] = field(default_factory=dict)

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def shape(self, name: str) -> str:
        """The ``model`` setting of a named random shape."""
        return "random:tiny" if self.dry else f"random:{name}"

    def config(self, shape: str, **settings: Any) -> EngineConfig:
        common: dict[str, Any] = {
            "model": self.shape(shape),
            "device": str(self.device),
            "dtype": "float32" if self.dry else "bfloat16",
            "attention_backend": "triton",
            "keep_text": False,
            "recording": "off",
            "sampling": Sampling(ignore_eos=True),
        }
        return EngineConfig(**common | settings)

    def measure_peaks(self) -> None:
        """Copy bandwidth and matrix rate of this device, the limits everything is held against."""
        self.peaks = measure_peaks(self.device, torch.float32 if self.dry else torch.bfloat16)
        self.report.table(
            "measured limits",
            ["limit", "value"],
            [
                ("copy, GB/s read + written", self.peaks["bytes_per_s"] / 1e9),
                ("matrix product, TFLOP/s", self.peaks["flops_per_s"] / 1e12),
            ],
        )

    def seconds(self, work: Callable[[], Any], repeats: int = 20, warm: int = 3) -> float:
        """Median device time of one call, in seconds."""
        if self.dry:
            repeats, warm = 1, 0
        if self.device.type != "cuda":
            return statistics.median(_host_seconds(work) for _ in range(warm + repeats))
        for _ in range(warm):
            work()
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for start, end in marks:
            start.record()
            work()
            end.record()
        torch.cuda.synchronize(self.device)
        return statistics.median(start.elapsed_time(end) for start, end in marks) / 1e3

    def free(self) -> None:
        """Give memory of the part before back to the device."""
        import gc

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def telling_weights(model: str) -> Iterator[None]:
    """Inside, random weights of ``random:SHAPE`` are so large that what a token attends to decides which one follows.

    A product with a row of unit size has about that size, and a little more. Drawn as usual, a residual stream is little more than its
    token's embedding, and an answer repeats one token.
    """
    usual = load._INITIAL_SCALE
    load._INITIAL_SCALE = TELLING_GAIN / RANDOM[model.removeprefix("random:")].hidden ** 0.5
    try:
        yield
    finally:
        load._INITIAL_SCALE = usual


def _host_seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_spec(config: EngineConfig, requests: Sequence[RequestSpec]) -> RunSpec:
    return RunSpec(run_id="benchmark", scenario="benchmark", engine=config, requests=tuple(requests))


def common_workload(vocab: int, dry: bool) -> list[RequestSpec]:
    """256 requests, prompt and output lengths uniform in [100, 1024], random token ids; the order of draws is part of it."""
    draw = random.Random(0)
    count, low, high = (3, 2, 5) if dry else (COMMON_REQUESTS, 100, 1024)
    highest_id = min(10_000, vocab - 1)
    prompts = [tuple(draw.randint(0, highest_id) for _ in range(draw.randint(low, high))) for _ in range(count)]
    outputs = [draw.randint(low, high) for _ in range(count)]
    assert dry or sum(outputs) == COMMON_OUTPUT_TOKENS, "not the published workload"
    return [
        RequestSpec(request_id=str(i), prompt_token_ids=ids, max_tokens=most)
        for i, (ids, most) in enumerate(zip(prompts, outputs, strict=True))
    ]


@dataclass(frozen=True)
class Served:
    """One serving of a workload."""

    seconds: float  # from the first submit to the last token
    output_tokens: int
    iterations: int
    outputs: list[list[int]]

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.seconds


class Server:
    """A loaded model and its allocated device side, to serve several workloads in turn."""

    def __init__(self, config: EngineConfig, requests: Sequence[RequestSpec]) -> None:
        self.prepared = prepare(make_spec(config, requests))
        self.executor = allocate(self.prepared)

    def serve(self, requests: Sequence[RequestSpec], **settings: Any) -> Served:
        """Serve a workload once; ``settings`` replace some of the engine's that the device side does not depend on."""
        prepared = self._prepared_for(requests, settings)
        with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
            clock = RunClock()
            with Recorder(Path(folder), prepared.spec.engine.recording, clock) as recorder:
                engine = build_engine(prepared, recorder, clock, self.executor)
                start = time.perf_counter()
                engine.run(prepared.requests)
                seconds = time.perf_counter() - start
        outputs = [r.output_token_ids for r in sorted(prepared.requests, key=lambda r: r.index)]
        return Served(seconds, sum(map(len, outputs)), engine.totals.iterations, outputs)

    def _prepared_for(self, requests: Sequence[RequestSpec], settings: dict[str, Any]) -> Prepared:
        config = self.prepared.spec.engine.model_copy(update=settings)
        spec = make_spec(config, requests)
        fresh = make_requests(spec, self.prepared.model, self.prepared.device, self.prepared.max_model_len)
        return dataclasses.replace(self.prepared, spec=spec, requests=fresh)


def decode_plan(batch: int, context: int, block_size: int, prefill: int = 0) -> Plan:
    """``batch`` requests that each decode one token after ``context`` tokens; ``prefill``: one request with that many new ones."""
    return ragged_plan([context] * batch, block_size, prefill)


def ragged_plan(contexts: Sequence[int], block_size: int, prefill: int = 0) -> Plan:
    """One request behind each context, which decodes one token or computes ``prefill`` new ones."""
    slices: list[Slice] = []
    tokens, first = prefill or 1, 0
    for index, context in enumerate(contexts):
        known = [index + 1] * (context + tokens)
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), known, Sampling(), 1)
        blocks = -(-len(known) // block_size)
        request.block_table = list(range(first, first + blocks))
        request.tail = index
        slices.append(Slice(request, tokens, context, prefill > 0))
        first += blocks
    return Plan(slices)


def mixed_contexts(batch: int, longest: int) -> list[int]:
    """Contexts drawn evenly from a tenth of ``longest`` to ``longest``, the same at each call."""
    draw = random.Random(batch)
    return [draw.randint(max(1, longest // 10), longest) for _ in range(batch)]


def step_seconds(bench: Bench, executor: Executor, plan: Plan, repeats: int = 20) -> float:
    """Device time of one forward pass over a plan, its batch already on the device."""
    batch = executor.build(plan)
    with torch.inference_mode():
        return bench.seconds(lambda: executor.forward(batch), repeats)
