"""A store of many runs, one of them with millions of slice rows; a part of ``benchmarks.large_store``."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import scenarios
from app.home import Home
from app.locks import LabAddress
from app.runs.folder import create_run, read_spec
from benchmarks.startup import begin_run, until
from engine.config import RequestSpec, RunSpec
from telemetry.folder import TELEMETRY_FOLDER
from telemetry.recorder import Recorder
from telemetry.rows import IterationRow, RequestRow, columns
from telemetry.status import is_final, read_status, write_status

AT_ONCE, TOKENS_EACH = 16, 1000  # requests in a step, steps of a request
BLOCK_TOKENS = 32
STEP_NS = 10_000_000
BIG, BESIDE, COPIED = "big", "beside", "served"


def serve_one(home: Home, lab: LabAddress, model: str) -> None:
    """A short run by the engine, which the others are copies of."""
    spec = scenarios.build("chat", {"model": model, "workload.requests": "4"}, run_id=COPIED)
    begin_run(home, lab, spec)
    until(lambda: is_final(read_status(home.run_dir(COPIED))), "the run to end")


def copy_runs(home: Home, runs: int) -> None:
    """So many runs in all, the two large ones among them."""
    source = home.run_dir(COPIED)
    for number in range(runs - 3):
        run_id = f"{COPIED}-{number:03d}"
        copied = read_spec(source).model_copy(
            update={"run_id": run_id, "created_unix_ns": time.time_ns(), "title": f"Copy {number}"}
        )
        place_run(home, copied, read_status(source))
        shutil.copytree(source / TELEMETRY_FOLDER, home.run_dir(run_id) / TELEMETRY_FOLDER)


def place_run(home: Home, spec: RunSpec, status: dict[str, Any]) -> Path:
    """A run's folder as its engine left it."""
    run_dir = create_run(home, spec)
    write_status(run_dir, **{**status, "run_id": spec.run_id})
    return run_dir


def make_large(home: Home, run_id: str, slices: int, asked: int) -> None:
    """A finished run whose rows are made up: 16 requests decode at once, a thousand tokens each.

    Args:
        slices: its slice rows.
        asked: slice rows that serving all its requests would take.
    """
    source = home.run_dir(COPIED)
    steps = slices // AT_ONCE
    wanted = -(-asked // AT_ONCE // TOKENS_EACH) * AT_ONCE
    spec = read_spec(source).model_copy(
        update={
            "run_id": run_id,
            "title": "Large",
            "created_unix_ns": time.time_ns(),
            "requests": tuple(
                RequestSpec(
                    request_id=f"r{number}", prompt_token_ids=(1, 2, 3, 4), max_tokens=TOKENS_EACH, group="large"
                )
                for number in range(wanted)
            ),
        }
    )
    run_dir = place_run(home, spec, read_status(source))
    with recorder_of(run_dir, source) as recorder:
        step = iteration_values()
        numbers = np.arange(AT_ONCE)
        for iteration in range(steps):
            batch, token = divmod(iteration, TOKENS_EACH)
            begins, ends = iteration * STEP_NS, (iteration + 1) * STEP_NS - 1_000_000 + iteration * 7919 % 900_000
            recorder.slices(
                iteration,
                request=numbers + batch * AT_ONCE,
                kind="decode" if token else "prefill",
                tokens=1,
                context_len=token + 4,
                emitted=1,
                itl_ns=STEP_NS + iteration * 7919 % 900_000 if token else None,
            )
            if token % BLOCK_TOKENS == 0:
                blocks(recorder, iteration, batch, token)
            recorder.iteration(
                **step
                | {"iteration": iteration, "start_ns": begins, "end_ns": ends, "kv_tokens": AT_ONCE * (token + 4)}
            )
            if iteration % 2000 == 0:
                recorder.flush()
        for number in range(steps // TOKENS_EACH * AT_ONCE):
            recorder.request(**request_values(number))


def blocks(recorder: Recorder, iteration: int, batch: int, token: int) -> None:
    """What happens to the pool when every running request begins a block; those of the batch before are given back."""
    place, held = token // BLOCK_TOKENS, -(-TOKENS_EACH // BLOCK_TOKENS)
    numbers = np.arange(AT_ONCE)
    lies = numbers * held + place
    time_ns = iteration * STEP_NS
    for event, owner in (("free", batch - 1), ("allocate", batch)):
        if owner >= 0:
            recorder.blocks(
                iteration,
                block=lies,
                event=event,
                request=numbers + owner * AT_ONCE,
                position=place,
                ref_count=int(event == "allocate"),
                time_ns=time_ns,
            )


@contextlib.contextmanager
def recorder_of(run_dir: Path, source: Path) -> Iterator[Recorder]:
    """A recorder in a finished run's folder; how the run began and ended is the other run's row."""
    (run_dir / TELEMETRY_FOLDER).mkdir()
    with Recorder(run_dir) as recorder:
        recorder.run("start", "running", peaks={"flops_per_s": 1e12, "bytes_per_s": 1e11})
        yield recorder
        recorder.run("end", str(read_status(source)["state"]))
    if recorder.problem:
        raise RuntimeError(recorder.problem)


def iteration_values() -> dict[str, Any]:
    """A decode step."""
    values: dict[str, Any] = {name: None if c.nullable else 0 for name, c in columns(IterationRow).items()}
    spent = {"schedule_ns": 200_000, "prepare_ns": 300_000, "forward_ns": 8_000_000, "sample_ns": 400_000}
    batch = {"running": AT_ONCE, "decode_requests": AT_ONCE, "decode_tokens": AT_ONCE, "emitted_tokens": AT_ONCE}
    pool = {"blocks_total": 1024, "blocks_used": 512}
    return values | spent | batch | pool | {"admission_stop": "none_waiting", "flops": 5e9, "bytes": 2.9e8}


def request_values(number: int) -> dict[str, Any]:
    """A request that waited for those before it."""
    values: dict[str, Any] = {name: None if c.nullable else 0 for name, c in columns(RequestRow).items()}
    begins = number // AT_ONCE * TOKENS_EACH * STEP_NS
    times = {
        "arrival_ns": max(0, begins - 50_000_000),
        "first_scheduled_ns": begins,
        "first_token_ns": begins + STEP_NS,
    }
    told = {"request": number, "request_id": f"r{number}", "group": "large", "end_reason": "length"}
    return (
        values
        | times
        | told
        | {
            "end_ns": begins + TOKENS_EACH * STEP_NS,
            "prompt_tokens": 4,
            "output_tokens": TOKENS_EACH,
        }
    )
