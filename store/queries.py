"""Every question the pages ask of a run. Each takes a cursor first; ``*_query`` gives its text for "show SQL".

Column names and units of series are those of the live socket (``docs/architecture.md``), so a chart draws either.
Series are thinned in the database to about ``max_points`` rows that all exist: the largest of every bucket stays, so
no stall can hide.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import duckdb
import pyarrow as pa

from store.metrics import METRICS
from store.query import Query
from store.schema import quoted
from store.summary import summary as summary
from telemetry.rows import RequestRow, columns

Connection = duckdb.DuckDBPyConnection

ITERATION_COLUMNS: dict[str, str] = {
    "t": "end_ns / 1e9",
    "duration_ms": "(end_ns - start_ns) / 1e6",
    "schedule_ms": "schedule_ns / 1e6",
    "prepare_ms": "prepare_ns / 1e6",
    "forward_ms": "forward_ns / 1e6",
    "sample_ms": "sample_ns / 1e6",
    "finish_ms": "finish_ns / 1e6",
    **{
        name: name
        for name in (
            "prefill_tokens",
            "decode_tokens",
            "emitted_tokens",
            "running",
            "waiting",
            "preempted",
            "blocks_used",
            "blocks_cached",
            "blocks_total",
            "kv_tokens",
            "token_budget",
            "iteration",
        )
    },
}

DEVICE_COLUMNS = {
    "t": "time_ns / 1e9",
    **{
        name: name
        for name in (
            "utilization",
            "memory_used",
            "power",
            "temperature",
            "sm_clock",
            "cpu_percent",
            "process_memory",
            "host_cpu_percent",
        )
    },
}

REQUEST_METRICS = ("scheduling_delay_ms", "ttft_ms", "tpot_ms", "e2e_ms", "normalized_latency_ms")

_JSON_COLUMNS = ("labels", "spec", "environment", "peaks", "model", "progress", "error", "summary", "figures")


def _select(expressions: dict[str, str]) -> str:
    return ", ".join(e if e == name else f"{e} AS {name}" for name, e in expressions.items())


# ---------------------------------------------------------------------- runs


def runs_query(limit: int = 200) -> Query:
    return Query(
        """
SELECT run_id, state, scenario, title, experiment_id, created_unix_ns, started_unix_ns, ended_unix_ns,
       labels, error, problem, progress, summary, figures, model
FROM runs ORDER BY coalesce(created_unix_ns, started_unix_ns) DESC NULLS LAST, run_id LIMIT $limit""".strip(),
        {"limit": limit},
    )


def runs(con: Connection, limit: int = 200) -> list[dict[str, Any]]:
    """The newest runs, newest first; JSON columns decoded."""
    return [_decoded(row) for row in runs_query(limit).rows(con)]


def figures_of(con: Connection, run_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The figures of those of the runs that have any, by run."""
    rows = Query(
        "SELECT run_id, figures FROM runs WHERE run_id IN (SELECT unnest($runs)) AND figures IS NOT NULL",
        {"runs": list(run_ids)},
    ).rows(con)
    return {row["run_id"]: json.loads(row["figures"]) for row in rows}


def run_query(run_id: str) -> Query:
    return Query("SELECT * FROM runs WHERE run_id = $run", {"run": run_id})


def run(con: Connection, run_id: str) -> dict[str, Any] | None:
    """Everything known of one run as a whole, JSON columns decoded; None if it is not known."""
    row = run_query(run_id).one(con)
    return None if row is None else _decoded(row)


def labels(con: Connection, run_id: str) -> dict[str, list[str]]:
    """The run's ``labels``, and ``disturbances``: what disturbed it, in words; empty of a run that is not known."""
    row = Query(
        "SELECT labels, figures->'$.disturbances' AS disturbances FROM runs WHERE run_id = $run", {"run": run_id}
    ).one(con)
    return {name: json.loads((row or {}).get(name) or "[]") for name in ("labels", "disturbances")}


# ---------------------------------------------------------------------- series


def iterations_query(run_id: str, max_points: int = 2000) -> Query:
    return Query(
        f"""
WITH whole AS (
  SELECT min(iteration) AS first, max(iteration) - min(iteration) + 1 AS span
  FROM iterations WHERE run_id = $run
), picks AS (
  SELECT unnest([arg_max(iteration, end_ns - start_ns), arg_min(iteration, end_ns - start_ns)]) AS iteration
  FROM iterations, whole WHERE run_id = $run AND span > $points
  GROUP BY (iteration - first) * ($points // 2) // span
)
SELECT {_select(ITERATION_COLUMNS)}
FROM iterations WHERE run_id = $run
  AND (iteration IN (FROM picks) OR (SELECT span <= $points FROM whole))
ORDER BY iteration""".strip(),
        {"run": run_id, "points": max(2, max_points)},
    )


def iterations(con: Connection, run_id: str, max_points: int = 2000) -> pa.Table:
    """The run's steps: all of them, or the slowest and the fastest of each bucket."""
    return iterations_query(run_id, max_points).table(con)


def preemptions_query(run_id: str, limit: int = 2000) -> Query:
    """The steps that threw somebody out of the pool, and how full it was then."""
    return Query(
        """
SELECT end_ns / 1e9 AS t, blocks_used, preempted, iteration
FROM iterations WHERE run_id = $run AND preempted > 0 ORDER BY iteration LIMIT $limit""".strip(),
        {"run": run_id, "limit": limit},
    )


def roofline_query(run_id: str, max_points: int = 1000) -> Query:
    return Query(
        """
SELECT iteration, flops, bytes, forward_ns / 1e6 AS forward_ms, prefill_tokens, decode_tokens
FROM iterations WHERE run_id = $run ORDER BY iteration DESC LIMIT $points""".strip(),
        {"run": run_id, "points": max_points},
    )


def token_latencies_query(run_id: str, max_points: int = 20_000) -> Query:
    return Query(
        f"""
WITH whole AS (
  SELECT min(iteration) AS first, greatest(1, (max(iteration) - min(iteration) + 1) // ($points // 2)) AS width,
         CASE WHEN sum(emitted_tokens) <= $points THEN 1 ELSE 2 * sum(emitted_tokens)::BIGINT // $points + 1 END AS step
  FROM iterations WHERE run_id = $run
), emissions AS NOT MATERIALIZED (
  SELECT iteration, request, itl_ns FROM slices WHERE run_id = $run AND itl_ns IS NOT NULL
), spread AS (  -- all of them, or those of every k-th step, drawn by hash so that no rhythm of the engine is favoured
  SELECT iteration, request, itl_ns FROM emissions WHERE iteration IN (
    SELECT iteration FROM iterations, whole WHERE run_id = $run AND hash(iteration) % step::UBIGINT = 0
  )
), peaks AS (  -- one number says which emission it was, so that its parts cannot come from different rows
  SELECT arg_max(iteration * 16777216 + request, itl_ns) AS place, max(itl_ns) AS itl_ns
  FROM emissions, whole GROUP BY (iteration - first) // width
), thinned AS (
  FROM spread UNION SELECT place // 16777216, (place % 16777216)::INTEGER, itl_ns FROM peaks
)
SELECT end_ns / 1e9 AS t, {METRICS["itl_ms"].expression} AS itl_ms, request
FROM thinned JOIN iterations USING (iteration) WHERE run_id = $run ORDER BY t, request""".strip(),
        {"run": run_id, "points": max(2, max_points)},
    )


def token_latencies(con: Connection, run_id: str, max_points: int = 20_000) -> pa.Table:
    """Each emission's inter-token latency (``t``, ``itl_ms``, ``request``): the largest of each bucket, the rest
    evenly thinned."""
    return token_latencies_query(run_id, max_points).table(con)


def devices_query(run_id: str, max_points: int = 2000) -> Query:
    return Query(
        f"""
WITH numbered AS (
  SELECT *, row_number() OVER (ORDER BY time_ns) - 1 AS i, count(*) OVER () AS n FROM devices WHERE run_id = $run
)
SELECT {_select(DEVICE_COLUMNS)} FROM numbered WHERE i % (n // $points + 1) = 0 ORDER BY time_ns""".strip(),
        {"run": run_id, "points": max(2, max_points)},
    )


def devices(con: Connection, run_id: str, max_points: int = 2000) -> pa.Table:
    """The machine's counters over the run, every k-th sample where there are more than ``max_points``."""
    return devices_query(run_id, max_points).table(con)


# ---------------------------------------------------------------------- requests and what happened to them


def requests_query(run_id: str, text: bool = False) -> Query:
    names = [
        quoted(name)
        for name in columns(RequestRow)
        if text or name not in ("text", "output_token_ids", "output_logprobs")
    ]
    figures = ", ".join(f"{METRICS[name].expression} AS {name}" for name in REQUEST_METRICS)
    return Query(
        f"SELECT {', '.join(names)}, {figures}\nFROM requests WHERE run_id = $run ORDER BY request", {"run": run_id}
    )


def requests(con: Connection, run_id: str, text: bool = False) -> pa.Table:
    """Every request that ended, with its latencies in ms; ``text`` adds the output and its token ids."""
    return requests_query(run_id, text).table(con)


def request_query(run_id: str, request: int) -> Query:
    return Query(
        "SELECT * EXCLUDE (run_id) FROM requests WHERE run_id = $run AND request = $request",
        {"run": run_id, "request": request},
    )


def request(con: Connection, run_id: str, request: int) -> dict[str, Any] | None:
    """One request with its text and token ids; None if it has not ended."""
    return request_query(run_id, request).one(con)


def decisions_query(run_id: str, limit: int = 500) -> Query:
    return Query(
        """
FROM (SELECT * EXCLUDE (run_id) FROM decisions WHERE run_id = $run ORDER BY time_ns DESC, iteration DESC LIMIT $limit)
ORDER BY time_ns, iteration""".strip(),
        {"run": run_id, "limit": limit},
    )


def decisions(con: Connection, run_id: str, limit: int = 500) -> pa.Table:
    """The scheduler's latest decisions, oldest first."""
    return decisions_query(run_id, limit).table(con)


def batch_makeup_query(run_id: str, first: int, last: int, limit: int = 50_000) -> Query:
    return Query(
        f"""
SELECT iteration, request, kind, tokens, context_len, drafted, accepted, emitted, {METRICS["itl_ms"].expression} AS itl_ms
FROM slices WHERE run_id = $run AND iteration BETWEEN $first AND $last ORDER BY iteration, request LIMIT $limit""".strip(),
        {"run": run_id, "first": first, "last": last, "limit": limit},
    )


def batch_makeup(con: Connection, run_id: str, first: int, last: int, limit: int = 50_000) -> pa.Table:
    """Who computed what in the steps ``first`` to ``last``, both included."""
    return batch_makeup_query(run_id, first, last, limit).table(con)


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    for name in _JSON_COLUMNS:
        if isinstance(row.get(name), str):
            row[name] = json.loads(row[name])
    if "labels" in row:
        row["labels"] = row["labels"] or []
    return row
