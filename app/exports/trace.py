"""A run as a Chrome trace (JSON), for ui.perfetto.dev: iterations on one track, each request on one of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from store.query import Query

STEPS = ("schedule", "prepare", "forward", "sample", "finish")
ENGINE, REQUESTS, COUNTERS = 1, 2, 3
ROWS_AT_ONCE = 20_000


def write_trace(con: duckdb.DuckDBPyConnection, runs: dict[str, str], path: Path) -> None:
    """Write runs (id -> name) to ``path``, each as processes of their own. Times in microseconds since the run's
    start.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        separator = ""
        for index, (run_id, name) in enumerate(runs.items()):
            for event in events(con, run_id, name, 10 * index):
                file.write(separator + json.dumps(event, ensure_ascii=False, separators=(",", ":")))
                separator = ",\n"
        file.write("\n]}\n")


def events(con: duckdb.DuckDBPyConnection, run_id: str, name: str, first_process: int) -> Iterator[dict[str, Any]]:
    """Every event of one run."""
    for process, what in ((ENGINE, "engine"), (REQUESTS, "requests"), (COUNTERS, "counters")):
        pid = first_process + process
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": f"{name}: {what}"}}
    for row in _rows(con, "iterations", run_id, "iteration"):
        yield from _iteration(row, first_process)
    for row in _rows(con, "requests", run_id, "request"):
        yield from _request(row, first_process + REQUESTS)


def _iteration(row: dict[str, Any], first_process: int) -> Iterator[dict[str, Any]]:
    tokens = {key: row[key] for key in ("prefill_tokens", "decode_tokens", "running", "waiting", "emitted_tokens")}
    pid, start = first_process + ENGINE, row["start_ns"]
    yield _span(f"iteration {row['iteration']}", "iteration", start, row["end_ns"], pid, 1, tokens)
    end = row["end_ns"]
    for step in STEPS:
        until = min(end, start + row[f"{step}_ns"])
        if until > start:
            yield _span(step, "step", start, until, pid, 1, {})
        start = until
    for counter in ("running", "waiting", "blocks_used"):
        at = row["end_ns"] / 1e3
        pid = first_process + COUNTERS
        yield {"ph": "C", "name": counter, "ts": at, "pid": pid, "tid": 0, "args": {counter: row[counter]}}


def _request(row: dict[str, Any], pid: int) -> Iterator[dict[str, Any]]:
    track = row["request"] + 1
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": track, "args": {"name": f"request {row['request']}"}}
    about = {
        key: row[key]
        for key in ("request_id", "group", "prompt_tokens", "cached_tokens", "output_tokens", "end_reason")
    }
    yield _span(str(row["request_id"]), "request", row["arrival_ns"], row["end_ns"], pid, track, about)
    marks = [row["arrival_ns"], row["first_scheduled_ns"], row["first_token_ns"], row["end_ns"]]
    for phase, start, end in zip(("waiting", "prefill", "decode"), marks, marks[1:], strict=False):
        if start is not None and end is not None and end > start:
            yield _span(phase, "phase", start, end, pid, track, {})


def _span(
    name: str, category: str, start_ns: int, end_ns: int, pid: int, tid: int, about: dict[str, Any]
) -> dict[str, Any]:
    times = {"ts": start_ns / 1e3, "dur": (end_ns - start_ns) / 1e3}
    return {"ph": "X", "name": name, "cat": category, **times, "pid": pid, "tid": tid, "args": about}


def _rows(con: duckdb.DuckDBPyConnection, table: str, run_id: str, key: str) -> Iterator[dict[str, Any]]:
    """A table's rows in order, a slice at a time. ``table`` and ``key`` are ours, never a user's."""
    after = -1
    hidden = "run_id, text, output_token_ids, output_logprobs" if table == "requests" else "run_id"
    sql = f"SELECT * EXCLUDE ({hidden}) FROM {table} WHERE run_id = $run AND {key} > $after ORDER BY {key} LIMIT $most"
    while True:
        batch = Query(sql, {"run": run_id, "after": after, "most": ROWS_AT_ONCE}).rows(con)
        yield from batch
        if len(batch) < ROWS_AT_ONCE:
            return
        after = batch[-1][key]
