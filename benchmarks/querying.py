"""How fast rows get into the database and a page gets its answers; parts of ``benchmarks.telemetry``."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.recording import BATCH, iteration_values
from store import iteration_window, queries
from store.database import Database
from store.ingest import Collector
from store.summary import compute_summary
from telemetry.recorder import Recorder
from telemetry.rows import IterationRow, columns

# what the page of a finished run asks for (app/views/finished.py, app/views/requests.py)
PAGE_ITERATIONS = 2000
PAGE_TOKENS = 6000

REQUESTS_AT_ONCE = 16
TOKENS_PER_REQUEST = 150


def ingest_rows_per_s(steps: int) -> dict[str, float]:
    """Rows per second from a spool on disk into the database: ``BATCH`` slices and one iteration row per step."""
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        runs = Path(folder) / "runs"
        run_dir = runs / "r1"
        run_dir.mkdir(parents=True)
        (run_dir / "status.json").write_text(json.dumps({"state": "running"}))
        with Recorder(run_dir) as recorder:
            for i in range(steps):
                recorder.slices(
                    i, request=np.arange(BATCH), kind=1, tokens=1, context_len=i, emitted=1, itl_ns=10_000_000 + i
                )
                recorder.iteration(**iteration_values(i, i * 10_000_000))
                if i % 200 == 0:
                    time.sleep(0.001)  # let the writer have batches of a size it would write in a run
        with Database(Path(folder) / "servescope.duckdb") as database:
            start = time.perf_counter()
            rows = Collector(runs, database).ingest_once("r1")
            seconds = time.perf_counter() - start
    return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds}


@contextmanager
def recorded_run(slices: int) -> Iterator[Database]:
    """A database with a finished run ``big`` of so many slice rows, beside another of a quarter of that."""
    with (
        tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder,
        Database(Path(folder) / "db.duckdb") as database,
    ):
        with database.read() as con:
            make_rows(con, "other", slices // 4)
            make_rows(con, "big", slices)
            figures = json.dumps(compute_summary(con, "big"))
            con.execute("UPDATE runs SET figures = ? WHERE run_id = 'big'", [figures])
        database.checkpoint()
        yield database


def page_refresh_ms(database: Database, repeats: int) -> list[float]:
    """Milliseconds of everything the page of a finished run asks the database, on a fresh cursor as each visit has."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with database.read() as con:
            queries.runs(con)
            queries.run(con, "big")
            queries.summary(con, "big")
            queries.iterations(con, "big", PAGE_ITERATIONS)
            queries.roofline_query("big").table(con)
            queries.token_latencies(con, "big", PAGE_TOKENS)
            queries.devices(con, "big")
            queries.requests(con, "big")
        times.append((time.perf_counter() - start) * 1e3)
    return times[1:]  # the first visit only warms up


def parts_ms(database: Database) -> dict[str, float]:
    """Milliseconds of each question alone, the best of three."""
    asked = {
        "runs": lambda con: queries.runs(con),
        "summary (stored)": lambda con: queries.summary(con, "big"),
        "summary (computed)": lambda con: compute_summary(con, "big"),
        "iterations": lambda con: queries.iterations(con, "big", PAGE_ITERATIONS),
        "roofline": lambda con: queries.roofline_query("big").table(con),
        "token latencies": lambda con: queries.token_latencies(con, "big", PAGE_TOKENS),
        "devices": lambda con: queries.devices(con, "big"),
        "requests": lambda con: queries.requests(con, "big"),
        "one iteration": lambda con: _iteration(con, 1000),
    }
    fastest = {}
    with database.read() as con:
        for name, ask in asked.items():
            times = []
            for _ in range(3):
                start = time.perf_counter()
                ask(con)
                times.append((time.perf_counter() - start) * 1e3)
            fastest[name] = min(times)
    return fastest


def _iteration(con: duckdb.DuckDBPyConnection, iteration: int) -> None:
    """What the page asks to show one iteration and those around it."""
    known = iteration_window.bounds(con, "big")
    assert known is not None
    iteration_window.window(con, "big", iteration, known)


def make_rows(con: duckdb.DuckDBPyConnection, run_id: str, slices: int) -> None:
    """Rows with the shape of a decode-heavy run: ``REQUESTS_AT_ONCE`` slices per 10 ms step, a long step now and then."""
    steps, at_once = slices // REQUESTS_AT_ONCE, REQUESTS_AT_ONCE
    con.execute("INSERT INTO runs (run_id, state) VALUES (?, 'finished')", [run_id])
    made = {
        "iteration": "i",
        "start_ns": "i * 10000000",
        "end_ns": "(i + 1) * 10000000 + CASE WHEN i % 997 = 0 THEN 80000000 ELSE (i * 7919) % 1000000 END",
        **{
            "schedule_ns": "200000",
            "prepare_ns": "300000",
            "forward_ns": "8000000",
            "sample_ns": "400000",
            "finish_ns": "100000",
        },
        **{"running": f"{at_once}", "waiting": "i % 5", "prefill_requests": "1", "decode_requests": f"{at_once}"},
        **{"prefill_tokens": "16", "decode_tokens": f"{at_once}", "emitted_tokens": f"{at_once}"},
        **{"context_tokens": f"{at_once} * 400", "token_budget": "64", "admission_stop": "'budget'"},
        **{
            "blocks_total": "1000",
            "blocks_used": "300 + i % 600",
            "kv_tokens": "i % 12000",
            "flops": "5e9",
            "bytes": "2.9e8",
        },
    }
    listed = ", ".join(
        f"{made.get(name, 'NULL' if c.nullable else '0')} AS {name}" for name, c in columns(IterationRow).items()
    )
    con.execute(f"INSERT INTO iterations BY NAME SELECT ? AS run_id, {listed} FROM range(?) t(i)", [run_id, steps])
    con.execute(
        f"""INSERT INTO slices (run_id, iteration, request, kind, tokens, context_len, drafted, accepted, emitted, itl_ns)
            SELECT ?, k // {at_once}, k // {at_once * TOKENS_PER_REQUEST} * {at_once} + k % {at_once}, 'decode', 1, k // {at_once} % 600,
                   0, 0, 1, CASE WHEN k % 100003 = 0 THEN 90000000 ELSE 10000000 + (k * 7919) % 1000000 END
            FROM range(?) t(k)""",
        [run_id, slices],
    )
    con.execute(
        f"""INSERT INTO requests (run_id, request, request_id, priority, arrival_ns, first_scheduled_ns, first_token_ns, end_ns,
                   prompt_tokens, cached_tokens, output_tokens, preemptions, drafted_tokens, accepted_tokens, end_reason)
            SELECT ?, r, 'r' || r, 0, r * 1000, r * 1000 + 500, r * 1000 + 20000000, r * 1000 + 1500000000, 200, 0,
                   {TOKENS_PER_REQUEST}, 0, 0, 0, 'length'
            FROM range(?) t(r)""",
        [run_id, max(1, slices // TOKENS_PER_REQUEST)],
    )
    con.execute(
        """INSERT INTO devices (run_id, time_ns, device, utilization, memory_used, cpu_percent)
           SELECT ?, i * 100000000, 'cpu', i % 100, 1e9, i % 200 FROM range(?) t(i)""",
        [run_id, max(1, steps // 10)],
    )
