"""From arrival to end: every request of a run as one line, and one request step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from store import waits
from store.metrics import COMPLETED_SQL, METRICS
from store.query import Query
from store.samples import alone
from store.slo import Slo

MET, TTFT_MISSED, TPOT_MISSED = 0, 1, 2  # both: 3
UNKNOWN = -1


def lifelines_query(run_id: str) -> Query:
    """A row for each request that ended, in order of arrival; times in ms since the run's start, -1 where there is none."""
    return Query(
        f"""
SELECT request, request_id, coalesce("group", '') AS "group", arrival_ns / 1e6 AS arrival_ms,
       coalesce(first_scheduled_ns / 1e6, -1) AS scheduled_ms, coalesce(first_token_ns / 1e6, -1) AS first_ms,
       end_ns / 1e6 AS end_ms, prompt_tokens, cached_tokens, output_tokens, preemptions, end_reason,
       ({COMPLETED_SQL})::INTEGER AS completed, {METRICS["ttft_ms"].expression} AS ttft_ms, {METRICS["tpot_ms"].expression} AS tpot_ms
FROM requests WHERE run_id = $run ORDER BY arrival_ns, request""".strip(),
        {"run": run_id},
    )


@dataclass(frozen=True)
class Lifelines:
    """What a picture of all requests draws."""

    requests: pa.Table  # as lifelines_query has them, and missed: MET, TTFT_MISSED, TPOT_MISSED, both added, or UNKNOWN
    preempted: pa.Table  # request, since_ms, until_ms, swapped (1: to host memory, 0: computed again)


def lifelines(con: duckdb.DuckDBPyConnection, run_id: str, slo: Slo) -> Lifelines:
    """Every request that ended, held against an objective. A request without a first token has missed it."""
    table = lifelines_query(run_id).table(con)
    unloaded = alone(con, [run_id]) if slo.relative else None
    if unloaded is not None and not np.isfinite(unloaded.step_ms):
        missed = np.full(table.num_rows, UNKNOWN)
    else:
        ttft, tpot = (np.asarray(table[name], np.float64) for name in ("ttft_ms", "tpot_ms"))
        most_ttft, most_tpot = slo.bounds_ms(np.asarray(table["prompt_tokens"], np.float64), unloaded)
        missed = TTFT_MISSED * ~(ttft <= most_ttft) + TPOT_MISSED * (tpot > most_tpot)
    preempted = Query(
        f"""
SELECT request, since_ns / 1e6 AS since_ms, until_ns / 1e6 AS until_ms, EXISTS (
  SELECT 1 FROM swaps WHERE swaps.run_id = $run AND swaps.request = spells.request AND direction IN ('out', 'in')
    AND asked_ns BETWEEN since_ns AND until_ns
)::INTEGER AS swapped
FROM ({waits.preemptions_query(run_id).sql}) spells""".strip(),
        waits.preemptions_query(run_id).parameters,
    ).table(con)
    return Lifelines(table.append_column("missed", pa.array(missed, pa.int32())), preempted)


def parts_query(run_id: str, request: int) -> Query:
    """Every step that computed for a request: what for, from when to when (ms), and the prompt of others beside it."""
    return Query(
        f"""
WITH own AS (
  SELECT iteration, kind, tokens, context_len, drafted, accepted, emitted, itl_ns FROM slices WHERE run_id = $run AND request = $request
), beside AS (
  SELECT iteration, sum(tokens)::BIGINT AS prefill_beside, arg_max(request, tokens) AS most_beside, count(*) AS prompts_beside
  FROM slices WHERE run_id = $run AND request <> $request AND kind = 'prefill' AND iteration IN (SELECT iteration FROM own)
  GROUP BY iteration
)
SELECT iteration, kind, tokens, context_len, drafted, accepted, emitted, {METRICS["itl_ms"].expression} AS itl_ms, start_ns / 1e6 AS start_ms,
       end_ns / 1e6 AS end_ms, coalesce(prefill_beside, 0) AS prefill_beside, most_beside, coalesce(prompts_beside, 0) AS prompts_beside,
       coalesce(sum(emitted) OVER (ORDER BY iteration), 0)::BIGINT AS tokens_so_far
FROM own JOIN (SELECT iteration, start_ns, end_ns FROM iterations WHERE run_id = $run) USING (iteration)
LEFT JOIN beside USING (iteration) ORDER BY iteration""".strip(),
        {"run": run_id, "request": request},
    )


@dataclass(frozen=True)
class Waterfall:
    """One request step by step. Times in ms since the run's start."""

    row: dict[str, Any]  # of ``lifelines``
    spells: list[dict[str, Any]]  # reason, since_ms, until_ms
    parts: list[dict[str, Any]]  # of ``parts_query``
    gaps: list[dict[str, Any]]  # iteration, and <kind>_ms of ``waits.GAPS``


def waterfall(con: duckdb.DuckDBPyConnection, run_id: str, request: int) -> Waterfall | None:
    """None of a request that has not ended."""
    rows = Query(
        f"SELECT * FROM ({lifelines_query(run_id).sql}) WHERE request = $request", {"run": run_id, "request": request}
    )
    row = rows.one(con)
    if row is None:
        return None
    spells = [
        {"reason": spell["reason"], "since_ms": spell["since_ns"] / 1e6, "until_ms": spell["until_ns"] / 1e6}
        for spell in waits.spells(con, run_id, request)
    ]
    names = ("iteration", "itl_ms", *(f"{kind}_ms" for kind in waits.GAPS))
    gaps = [{name: gap[name] for name in names} for gap in waits.gaps(con, run_id, request).to_pylist()]
    return Waterfall(row, spells, parts_query(run_id, request).rows(con), gaps)
