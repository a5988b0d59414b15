"""Runs of the same requests with different codecs of the KV cache, side by side: what each held, how long its steps took, who was preempted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import duckdb

from store.metrics import METRICS
from store.query import Query

DECODE_ONLY = "prefill_tokens = 0 AND draft_tokens = 0 AND decode_requests > 0"
BANDS = 16  # of context, in which steps are compared


def same_requests_query(workload_hash: str, limit: int = 200) -> Query:
    """Finished runs that were asked the same, the newest first."""
    return Query(
        """
SELECT run_id, spec, model, peaks, labels, figures, created_unix_ns FROM runs
WHERE workload_hash = $workload AND state = 'finished' AND figures IS NOT NULL
ORDER BY created_unix_ns DESC NULLS LAST, run_id LIMIT $limit""".strip(),
        {"workload": workload_hash, "limit": limit},
    )


def same_requests(con: duckdb.DuckDBPyConnection, workload_hash: str) -> list[dict[str, Any]]:
    """The same with JSON decoded."""
    runs = same_requests_query(workload_hash).rows(con)
    for row in runs:
        for name in ("spec", "model", "peaks", "labels", "figures"):
            row[name] = json.loads(row[name]) if row[name] else {}
    return runs


def steps_query(run_ids: Sequence[str]) -> Query:
    """Per run: most requests in flight, preemptions, and its steps that only decode: how long, with how many requests, over what context."""
    return Query(
        f"""
SELECT run_id, max(running) AS most_running, sum(preempted)::BIGINT AS preemptions,
       median((end_ns - start_ns) / 1e6) FILTER ({DECODE_ONLY}) AS decode_step_ms,
       avg(decode_requests) FILTER ({DECODE_ONLY}) AS decode_requests, count(*) FILTER ({DECODE_ONLY}) AS decode_steps,
       max(blocks_used / blocks_total) AS fullest
FROM iterations WHERE run_id IN (SELECT unnest($runs)) GROUP BY run_id""".strip(),
        {"runs": list(run_ids)},
    )


def cells_query(run_ids: Sequence[str]) -> Query:
    """Steps that only decode, gathered by requests in them and by band of context (summed over the requests), so that like is compared
    with like. The bands are equally wide, and the run with the least context has 16 of them."""
    return Query(
        f"""
WITH steps AS (
  SELECT run_id, decode_requests AS batch, context_tokens AS context, (end_ns - start_ns) / 1e6 AS ms
  FROM iterations WHERE run_id IN (SELECT unnest($runs)) AND {DECODE_ONLY}
), least AS (SELECT max(context) AS context FROM steps GROUP BY run_id),
width AS (SELECT greatest(1, ceil((min(context) + 1) / $bands))::BIGINT AS width FROM least)
SELECT run_id, batch, (context // width)::BIGINT AS band, count(*) AS steps, median(context) AS context_tokens, median(ms) AS step_ms
FROM steps, width GROUP BY ALL ORDER BY run_id, batch, band""".strip(),
        {"runs": list(run_ids), "bands": BANDS},
    )


def pools_query(run_ids: Sequence[str], points: int = 400) -> Query:
    """The pool over time, per run, in equal stretches: the most blocks used in each, and the requests preempted in it."""
    return Query(
        """
WITH steps AS (
  SELECT run_id, end_ns / 1e9 AS t, blocks_used, blocks_total, preempted, max(end_ns / 1e9) OVER (PARTITION BY run_id) AS last
  FROM iterations WHERE run_id IN (SELECT unnest($runs))
)
SELECT run_id, max(t) AS t, max(blocks_used) AS blocks_used, max(blocks_total) AS blocks_total, sum(preempted)::BIGINT AS preempted
FROM steps GROUP BY run_id, least($points - 1, floor(t / last * $points)) ORDER BY run_id, t""".strip(),
        {"runs": list(run_ids), "points": max(2, points)},
    )


def preempted_query(run_ids: Sequence[str], limit: int = 1000) -> Query:
    """Who was thrown out of the pool: when first, how many tokens had to be computed again, the longest gap its reader saw."""
    return Query(
        f"""
WITH thrown AS (
  SELECT run_id, request, min(time_ns) / 1e9 AS first_s, sum(tokens)::BIGINT AS tokens_lost FROM decisions
  WHERE run_id IN (SELECT unnest($runs)) AND action = 'preempted' GROUP BY ALL
), gaps AS (
  SELECT run_id, request, max({METRICS["itl_ms"].expression}) AS longest_gap_ms FROM slices WHERE run_id IN (SELECT unnest($runs)) GROUP BY ALL
)
SELECT run_id, request, request_id, preemptions, first_s, tokens_lost, longest_gap_ms,
       {METRICS["e2e_ms"].expression} AS e2e_ms
FROM requests LEFT JOIN thrown USING (run_id, request) LEFT JOIN gaps USING (run_id, request)
WHERE run_id IN (SELECT unnest($runs)) AND preemptions > 0 ORDER BY run_id, first_s, request LIMIT $limit""".strip(),
        {"runs": list(run_ids), "limit": limit},
    )
