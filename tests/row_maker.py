"""Made-up but well-formed rows, for tests that need a recorded run without an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.process import own_identity
from telemetry.recorder import Recorder
from telemetry.rows import ROW_TYPES, IterationRow, RequestRow, columns
from telemetry.spool import SpoolReader, spool_path

STEP_NS = 10_000_000  # every made-up step takes 10 ms


def iteration_values(iteration: int, **changes: Any) -> dict[str, Any]:
    """A whole iteration row: zeros, a 10 ms step at its place in time, and ``changes``."""
    values: dict[str, Any] = dict.fromkeys(columns(IterationRow), 0)
    start = iteration * STEP_NS
    values |= {"iteration": iteration, "start_ns": start, "end_ns": start + STEP_NS, "forward_ns": STEP_NS * 8 // 10}
    values |= {
        "token_budget": None,
        "graph_size": None,
        "half": None,
        "admission_stop": "none_waiting",
        "blocks_total": 100,
    }
    return values | changes


def request_values(request: int, **changes: Any) -> dict[str, Any]:
    """A whole request row: arrives at 0, first token after one step, ends by length after ten."""
    values: dict[str, Any] = {name: None if c.nullable else 0 for name, c in columns(RequestRow).items()}
    values |= {"request": request, "request_id": f"r{request}", "first_scheduled_ns": 0, "first_token_ns": STEP_NS}
    values |= {"end_ns": 10 * STEP_NS, "prompt_tokens": 8, "output_tokens": 10, "end_reason": "length"}
    return values | changes


def record_step(recorder: Recorder, iteration: int, batch: int = 4) -> None:
    """One decode step of ``batch`` requests in all four kinds of hot row."""
    requests = np.arange(batch)
    recorder.slices(
        iteration,
        request=requests,
        kind="decode",
        tokens=1,
        context_len=requests + iteration,
        emitted=1,
        itl_ns=requests * 1000 + iteration if iteration else None,
    )
    recorder.decision(iteration, "refused", "blocks", request=iteration % batch, time_ns=iteration * STEP_NS)
    recorder.blocks(
        iteration, block=[iteration % 7, 8], event="fill", request=1, ref_count=1, time_ns=iteration * STEP_NS
    )
    recorder.iteration(**iteration_values(iteration, running=batch, decode_tokens=batch, emitted_tokens=batch))


def make_run(runs: Path, run_id: str, state: str = "running", **status: Any) -> Path:
    """A run's folder with its spec and a status that names this process."""
    run_dir = runs / run_id
    run_dir.mkdir(parents=True)
    spec = {"run_id": run_id, "scenario": "starter", "labels": ["random weights"], "requests": [{"prompt": "secret"}]}
    (run_dir / "spec.json").write_text(json.dumps(spec | {"created_unix_ns": 1}))
    set_status(run_dir, state, **status)
    return run_dir


def set_status(run_dir: Path, state: str, **changes: Any) -> None:
    status = {"state": state, "run_id": run_dir.name, **own_identity()}
    (run_dir / "status.json").write_text(json.dumps(status | {"labels": [], "error": None} | changes))


def record_run(runs: Path, run_id: str, steps: int = 50, batch: int = 4, state: str = "finished") -> Path:
    """A whole recorded run, with every row type but ``device``."""
    run_dir = make_run(runs, run_id)
    with Recorder(run_dir) as recorder:
        recorder.run("start", "running", labels=["random weights"], peaks={"flops_per_s": 1e12, "bytes_per_s": 1e11})
        for i in range(steps):
            record_step(recorder, i, batch)
            if i % 10 == 9:
                recorder.flush()
        for k in range(batch):
            recorder.request(**request_values(k))
        recorder.run("end", state, summary={"output_tokens": steps * batch})
    set_status(run_dir, state)
    return run_dir


def spooled(run_dir: Path, row: str) -> list[dict[str, Any]]:
    """Every row of one type that the spool holds whole."""
    return [r for item in SpoolReader(spool_path(run_dir, row)).read() for r in item.batch.to_pylist()]


def stored(con: Any, run_id: str, row: str) -> list[dict[str, Any]]:
    """Every row of one type that the database holds, in the order it was inserted."""
    from store.schema import TABLES, quoted

    names = ", ".join(quoted(name) for name in columns(ROW_TYPES[row]))
    query = f"SELECT {names} FROM {TABLES[row]} WHERE run_id = ? ORDER BY rowid"
    return con.sql(query, params=[run_id]).to_arrow_table().to_pylist()
