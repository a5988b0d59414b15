"""What recording costs the engine thread and how soon a row can be seen; parts of ``benchmarks.telemetry``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT
from store.database import Database
from store.ingest import Collector
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.rows import IterationRow, columns

BATCH = 256
STEP_BYTES = 8 << 20  # what a step between two recordings reads and writes, so that caches are as cold as in an engine


def iteration_values(iteration: int, end_ns: int) -> dict[str, Any]:
    """A row like an engine's."""
    values: dict[str, Any] = dict.fromkeys(columns(IterationRow), 17)
    values |= {"iteration": iteration, "end_ns": end_ns, "start_ns": end_ns - 1_000_000, "graph_size": None}
    return values | {"admission_stop": "budget", "flops": 1e9, "bytes": 2e8}


def recording_cost_us(steps: int, form: str) -> dict[str, float]:
    """Engine-thread time per iteration, in us, to record the step and its ``BATCH`` slices.

    ``form``: the batch's columns come as ``arrays`` or as ``lists``. Between recordings a step's worth of memory is copied, and the
    writer thread does its work as in a run.
    """
    source, target = np.ones(STEP_BYTES // 2, np.uint8), np.empty(STEP_BYTES // 2, np.uint8)
    request, context = np.arange(BATCH, dtype=np.int32), np.arange(BATCH, dtype=np.int32) + 500
    latencies = np.full(BATCH, 10_000_000)
    batch: dict[str, Any] = {"request": request, "context_len": context, "itl_ns": latencies}
    per_request = {
        "kind": np.ones(BATCH, np.int8),
        "tokens": np.ones(BATCH, np.int32),
        "emitted": np.ones(BATCH, np.int32),
    }
    batch |= per_request
    if form == "lists":
        batch = {name: column.tolist() for name, column in batch.items()}
    spent = np.empty(steps)
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder, Recorder(Path(folder)) as recorder:
        for i in range(steps):
            np.copyto(target, source)
            values = iteration_values(i, recorder.clock.now_ns())
            start = time.perf_counter_ns()
            recorder.slices(i, **batch)
            recorder.iteration(**values)
            spent[i] = time.perf_counter_ns() - start
    if recorder.problem:
        raise RuntimeError(recorder.problem)
    return {
        "mean": spent.mean() / 1e3,
        "p50": float(np.median(spent)) / 1e3,
        "p99": float(np.quantile(spent, 0.99)) / 1e3,
    }


def visible_after_ms(seconds: float) -> list[float]:
    """Milliseconds from the end of each iteration to the first query that finds it.

    A recorder in its own process (10 ms steps, 16 requests), the collector in this one, a reader that asks every 5 ms.
    """
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        with Database(Path(folder) / "servescope.duckdb") as database, _following(runs, database):
            script = f"from benchmarks.recording import record_for; record_for({str(runs / 'r1')!r}, {seconds})"
            with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as recorder, database.read() as con:
                delays, seen = [], -1
                while recorder.poll() is None:
                    rows = con.execute(
                        "SELECT iteration, end_ns FROM iterations WHERE iteration > ?", [seen]
                    ).fetchall()
                    now = time.monotonic_ns()
                    delays += [(now - end_ns) / 1e6 for _, end_ns in rows]
                    seen = max((iteration for iteration, _ in rows), default=seen)
                    time.sleep(0.005)
    return delays


def record_for(run_dir: str, seconds: float) -> None:
    """In a process of its own: record a step every 10 ms; row times are the machine's monotonic clock."""
    folder = Path(run_dir)
    folder.mkdir()
    (folder / "spec.json").write_text("{}")
    (folder / "status.json").write_text(json.dumps({"state": "running"}))
    with Recorder(folder, clock=RunClock(origin_monotonic_ns=0)) as recorder:
        end = time.monotonic() + seconds
        iteration = 0
        while time.monotonic() < end:
            time.sleep(0.01)
            recorder.slices(
                iteration, request=np.arange(16), kind=1, tokens=1, context_len=iteration, emitted=1, itl_ns=10_000_000
            )
            recorder.iteration(**iteration_values(iteration, recorder.clock.now_ns()))
            iteration += 1


@contextmanager
def _following(runs: Path, database: Database) -> Iterator[Collector]:
    collector = Collector(runs, database, discover_s=0.1).start()
    try:
        yield collector
    finally:
        collector.stop()
