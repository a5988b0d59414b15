"""One engine process per run: ``python -m engine.worker RUN_DIR``.

Reads ``RUN_DIR/spec.json``, serves it, writes ``RUN_DIR/telemetry/*.arrow`` and ``RUN_DIR/status.json``, exits with 0 when the run
finished or was cancelled and 1 when it failed. SIGTERM: finish the iteration, flush, exit. ``--spare`` imports and rehearses, prints
``ready`` and waits for one line with a RUN_DIR on standard input; end of input means it is not needed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from engine import finite
from engine.config import RunSpec
from engine.config.errors import EngineError
from engine.kv.quantized import tail_tokens
from engine.loop import Engine
from engine.model.device import device_uuid
from engine.outputs import output_digest
from engine.progress import in_flight, progress
from engine.start.build import allocate, build_engine
from engine.start.peaks import measure_peaks
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.reading_cost import measure_attention
from engine.start.sizing import spare_tokens
from engine.start.speculation import make_speculator
from engine.start.trial import try_out
from engine.start.warmup import rehearse, warm_up
from telemetry.clock import RunClock
from telemetry.damage import spool_sizes
from telemetry.folder import SPEC
from telemetry.jsonfile import Unreadable, read_as
from telemetry.limits import MOST_SPEC_BYTES
from telemetry.machine import environment
from telemetry.recorder import Recorder
from telemetry.sampler import DeviceSampler
from telemetry.status import StatusFile

SHOWN_REFUSALS = 10  # in a run's summary


class Stop:
    """Turns SIGTERM and SIGINT into a wish that the loop reads after each iteration."""

    def __init__(self, time_limit_s: float | None) -> None:
        self.asked = False
        self.reason = "asked"
        self._limit_s = time_limit_s
        self._deadline = float("inf")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)
            signal.signal(signal.SIGINT, self._ask)

    def start_clock(self) -> None:
        if self._limit_s is not None:
            self._deadline = time.monotonic() + self._limit_s

    def __call__(self) -> bool:
        if not self.asked and time.monotonic() > self._deadline:
            self.asked, self.reason = True, "time limit"
        return self.asked

    def _ask(self, signum: int, frame: Any) -> None:
        self.asked = True


def run(run_dir: Path) -> int:
    """Serve the run in ``run_dir``; returns the exit code."""
    status = StatusFile(run_dir)
    status.update(state="starting")
    try:
        spec = read_as(RunSpec, run_dir / SPEC, MOST_SPEC_BYTES)
        stop = Stop(spec.time_limit_s)
        status.update(state="loading", labels=list(spec.labels))
        prepared = prepare(spec, lambda phase, share: status.update(progress={"phase": phase, "phase_share": share}))
        return _serve(run_dir, prepared, status, stop)
    except Exception as error:
        traceback.print_exc()
        said = describe(error)
        status.close("failed", error=said, labels=[*status.labels, *_labels_of(said)])
        return 1


def _serve(run_dir: Path, prepared: Prepared, status: StatusFile, stop: Stop) -> int:
    spec, device = prepared.spec, prepared.device
    labels = list(dict.fromkeys([*spec.labels, *prepared.model.labels, *prepared.notices]))
    status.update(labels=labels, progress={"phase": "measuring the device", "phase_share": 0.0})
    peaks = measure_peaks(device, prepared.model.dtype)
    warm_up(prepared)
    reading = _measure_reading(prepared)
    executor = allocate(prepared, lambda phase, share: status.update(progress={"phase": phase, "phase_share": share}))
    drafter = make_speculator(prepared, executor.cache)
    if drafter is not None:
        status.update(progress={"phase": "timing guesses", "phase_share": 0.0})
        try_out(prepared, executor, drafter)
    clock = RunClock()
    recorder = Recorder(run_dir, spec.engine.recording, clock)
    uuid = device_uuid(device)
    sampler = DeviceSampler(recorder, str(device), interval_ms=spec.engine.device_sample_ms, uuid=uuid)
    state, error = "failed", None
    engine: Engine | None = None
    try:
        engine = build_engine(prepared, recorder, clock, executor, drafter)
        recorder.run(
            "start",
            "running",
            labels=labels,
            spec=spec.model_dump(mode="json", exclude={"requests"}) | {"workload_hash": spec.workload_hash},
            environment=environment(torch_version=torch.__version__, device=str(device), uuid=uuid)
            | {"threads": torch.get_num_threads()},
            peaks=peaks,
            model=_describe_model(prepared, executor.graph_bytes) | reading,
        )
        sampler.start()
        status.update(state="running")
        status.follow(lambda: {"progress": progress(engine, prepared), "in_flight": in_flight(engine)})
        stop.start_clock()
        engine.run(prepared.requests, stop)
        state = "cancelled" if stop.asked else "finished"
        if stop.asked:
            error = {
                "kind": stop.reason,
                "field": "run",
                "value": None,
                "message": "Stopped before its end.",
                "mend": "",
            }
            labels.append("unfinished")
    except Exception as failure:
        traceback.print_exc()
        error = describe(failure)
        labels += _labels_of(error)
    finally:
        sampler.stop()
    summary = _summary(engine, prepared, clock) if engine is not None else None
    recorder.run("end", state, labels=labels, error=error, summary=summary)
    recorder.close()
    labels += [label for label in recorder.labels if label not in labels]
    if recorder.problem and error is None:
        error = {
            "kind": "telemetry",
            "field": "recording",
            "value": None,
            "message": recorder.problem,
            "mend": "Free disk space, or record less.",
        }
    reached = progress(engine, prepared) if engine is not None else {}
    status.close(state, error=error, labels=labels, summary=summary, progress=reached, spool=spool_sizes(run_dir))
    return 1 if state == "failed" else 0


def describe(error: Exception) -> dict[str, Any]:
    """The ``error`` object of status.json for anything that can end a run."""
    if isinstance(error, EngineError):
        return error.as_dict()
    if isinstance(error, Unreadable):
        if not isinstance(error.__cause__, ValidationError):
            mend = "Start the run again from its scenario."
            return {"kind": "bad-spec", "field": SPEC, "value": None, "message": f"{error}.", "mend": mend}
        error = error.__cause__
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "spec"
        value = first.get("input")
        text = value if isinstance(value, str | int | float | bool) else type(value).__name__
        return {
            "kind": "bad-spec",
            "field": field,
            "value": text,
            "message": first["msg"],
            "mend": "Correct this value in spec.json.",
        }
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        mend = "Set kv_blocks, max_num_seqs or max_num_batched_tokens lower, or choose a smaller model."
        return {
            "kind": "out-of-memory",
            "field": "device",
            "value": None,
            "message": "The device ran out of memory.",
            "mend": mend,
        }
    if isinstance(error, RuntimeError) and ("CUDA error" in str(error) or "Triton Error [CUDA]" in str(error)):
        return {
            "kind": "device-lost",
            "field": "device",
            "value": None,
            "message": f"The GPU stopped answering: {str(error).splitlines()[0]}"[:500],
            "mend": "Look at the driver (nvidia-smi) and run again; the rows up to here are kept.",
        }
    if isinstance(error, OSError):
        message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        return {
            "kind": "io",
            "field": "file",
            "value": str(error.filename or ""),
            "message": message,
            "mend": "See worker.log in the run's folder.",
        }
    message = f"{type(error).__name__}: {error}"[:500]
    return {
        "kind": "internal",
        "field": "engine",
        "value": None,
        "message": message,
        "mend": "See worker.log in the run's folder.",
    }


def _labels_of(error: dict[str, Any]) -> list[str]:
    """What a failure makes of a run's rows, for as long as they are shown."""
    return [finite.LABEL] if error["kind"] == finite.KIND else []


def _describe_model(prepared: Prepared, graph_bytes: int) -> dict[str, Any]:
    model, shape, config = prepared.model, prepared.model.shape, prepared.spec.engine
    limits = prepared.limits
    return {
        "name": config.model,
        "architecture": shape.architecture,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab": shape.vocab,
        "parameters": shape.parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(prepared.device),
        "weight_bytes": model.weight_bytes,
        "kv_bytes_per_token": prepared.kv_bytes_per_token,
        **_describe_codec(prepared),
        "kv_capacity_tokens": prepared.kv_capacity_tokens,
        "kv_could_hold_tokens": prepared.kv_could_hold_tokens,
        "kv_pool": prepared.pool.why,
        "mean_request_tokens": mean_request_tokens(prepared),
        "max_model_len": prepared.max_model_len,
        "attention_backend": prepared.backend,
        "graph_bytes": graph_bytes,
        "policy": config.resolved_policy,
        "token_budget": limits.token_budget,
    }


def _describe_codec(prepared: Prepared) -> dict[str, Any]:
    """How many bits a number takes in the KV cache, and what the codec makes of the pool's bytes."""
    codec, shape, size = prepared.codec, prepared.model.shape, prepared.spec.engine.block_size
    if codec is None:
        return {"kv_bits": 8.0 * prepared.model.dtype.itemsize}
    return {
        "kv_codec": codec.name,
        "kv_bits": codec.bits(shape.head_dim, size),
        "kv_window": codec.window,
        "kv_tails": prepared.tails,
        "kv_could_hold_tails": prepared.pool.most.tails,
        "kv_tail_tokens": tail_tokens(codec, spare_tokens(prepared.spec.engine)),
        "kv_full_bytes_per_token": shape.kv_bytes_per_token(prepared.model.dtype.itemsize),
    }


def _measure_reading(prepared: Prepared) -> dict[str, Any]:
    """What attention over the packed cache takes, where there is one. A run does without it where it cannot be measured."""
    try:
        found = measure_attention(prepared)
    except RuntimeError:
        traceback.print_exc()
        return {}
    return {} if found is None else {"kv_attention_s": found}


def mean_request_tokens(prepared: Prepared) -> float:
    """Prompt and output of the workload's mean request, as asked; one that ends early takes less."""
    most = prepared.max_model_len
    asked = [min(r.num_prompt_tokens + r.max_tokens, most) for r in prepared.servable]
    return sum(asked) / max(1, len(asked))


def _summary(engine: Engine, prepared: Prepared, clock: RunClock) -> dict[str, Any]:
    totals = engine.totals
    accounted = totals.requests_finished + totals.requests_cancelled
    return {
        "requests": {
            "total": len(prepared.requests),
            "finished": totals.requests_finished,
            "cancelled": totals.requests_cancelled,
            "failed": len(prepared.requests) - accounted,
        },
        "iterations": totals.iterations,
        "output_tokens": totals.output_tokens,
        "prompt_tokens": totals.prompt_tokens,
        "duration_s": clock.now_ns() / 1e9,
        "preemptions": totals.preemptions,
        "prefix_hit_tokens": totals.prefix_hit_tokens,
        "preempted_hit_tokens": totals.preempted_hit_tokens,
        "draft_tokens": totals.draft_tokens,
        "accepted_tokens": totals.accepted_tokens,
        "speculation": engine.scheduler.drafter.describe() if engine.scheduler.drafter is not None else None,
        "kv_capacity_tokens": prepared.kv_capacity_tokens,
        "peak_kv_tokens": totals.peak_kv_tokens,
        "output_digest": output_digest(prepared.requests),
        "workload_hash": prepared.spec.workload_hash,
        "refused": _refused(prepared),
    }


def _refused(prepared: Prepared) -> list[dict[str, str]]:
    """Requests that could not be served and why, the first of them; their rows say it of all."""
    found = [r for r in prepared.requests if r.refusal is not None]
    return [{"request_id": r.request_id, "error": str(r.refusal)} for r in found[:SHOWN_REFUSALS]]


def main(arguments: list[str]) -> int:
    if arguments == ["--spare"]:
        rehearse()
        print("ready", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return 0
        arguments = [line]
        _redirect_output(Path(line))
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m engine.worker RUN_DIR | --spare", file=sys.stderr)
        return 2
    return run(Path(arguments[0]))


def _redirect_output(run_dir: Path) -> None:
    """A spare worker learns late where its log belongs."""
    log = os.open(run_dir / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
