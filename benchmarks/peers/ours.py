"""This project's engine on the ragged workload, as a run does it: recorded in full, through the same parts as the worker."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.work import WARM_TOKENS, digest, ragged_spec
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.requests import make_requests
from engine.start.warmup import warm_up
from telemetry.clock import RunClock
from telemetry.recorder import Recorder


def measure(dtype: str, threads: int, requests: int | None) -> dict[str, Any]:
    """Load, warm, serve once; seconds are from the first arrival to the last token."""
    spec = ragged_spec(dtype, threads, requests)
    prepared = prepare(spec)
    warm_up(prepared)
    short = [r.model_copy(update={"max_tokens": WARM_TOKENS}) for r in spec.requests[: spec.engine.max_num_seqs]]
    serve(with_requests(prepared, spec.model_copy(update={"requests": tuple(short)})))
    measured = with_requests(prepared, spec)
    duration = serve(measured)
    outputs = [r.output_token_ids for r in sorted(measured.requests, key=lambda r: r.index)]
    config = spec.engine
    return {
        "seconds": duration,
        "output_tokens": sum(map(len, outputs)),
        "digests": digest(outputs),
        "resolved": {
            "attention": prepared.backend,
            "policy": config.resolved_policy,
            "dtype": str(prepared.model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "kv_tokens": prepared.kv_capacity_tokens,
            "token_budget": prepared.limits.token_budget,
            "at_once": config.max_num_seqs,
            "recording": config.recording,
            "torch": torch.__version__,
        },
    }


def with_requests(prepared: Prepared, spec: Any) -> Prepared:
    """``prepared`` for the requests of this spec, none of which has begun."""
    fresh = make_requests(spec, prepared.model, prepared.device, prepared.max_model_len)
    return dataclasses.replace(prepared, spec=spec, requests=fresh)


def serve(prepared: Prepared) -> float:
    """Serve the requests, recorded as the spec says; seconds from the first arrival to the last token."""
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        clock = RunClock()
        recorder = Recorder(Path(folder), prepared.spec.engine.recording, clock)
        engine = build_engine(prepared, recorder, clock)
        start = time.perf_counter()
        engine.run(prepared.requests)
        duration = time.perf_counter() - start
        recorder.close()
    return duration
