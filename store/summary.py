"""One run in figures: the object ``servescope run --json`` prints.

Totals are the engine's own where it has stated them (it counts whatever is recorded); latencies come from the rows. A
run that is complete keeps its summary in ``runs.figures``, so that a page does not rank millions of rows at every
visit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from store.metrics import (
    COMPLETED_SQL,
    FEWEST_STEADY,
    FULL,
    METRICS,
    PERCENTILES,
    STALL_MS,
    percentile_name,
    too_few_in_words,
)
from store.query import Query

LATENCIES = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms")
LATENCY_FIGURES = (*map(percentile_name, PERCENTILES), "mean", "max")


def summary(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any] | None:
    """The run's summary, stored or computed now; None if the run is not known."""
    return stored_summary(con, run_id) or compute_summary(con, run_id)


def stored_summary(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any] | None:
    """The summary of a run that is over and wholly in the database; None of any other."""
    row = Query("SELECT figures FROM runs WHERE run_id = $run", {"run": run_id}).one(con)
    return json.loads(row["figures"]) if row and row["figures"] else None


def compute_summary(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any] | None:
    """The run's summary from the rows that are in the database now."""
    bound = {"run": run_id}
    run = Query(
        "SELECT state, labels, workload_hash, model, progress, summary FROM runs WHERE run_id = $run", bound
    ).one(con)
    if run is None:
        return None
    stated = _loads(run["summary"])
    requests = totals_query(run_id).rows(con)[0]
    steps = steps_query(run_id).rows(con)[0]
    stated_requests = stated.get("requests", {})
    progress = _loads(run["progress"])
    output_tokens = _first(stated.get("output_tokens"), steps["emitted"], requests["output_tokens"], 0)
    span_s = _span_s(requests, steps)
    return {
        "run_id": run_id,
        "status": run["state"],
        "labels": json.loads(run["labels"] or "[]"),
        "requests": {
            "total": _first(stated_requests.get("total"), progress.get("requests_total"), requests["total"]),
            "finished": _first(stated_requests.get("finished"), requests["finished"]),
            "failed": _first(stated_requests.get("failed"), requests["failed"]),
            "cancelled": _first(stated_requests.get("cancelled"), requests["cancelled"]),
        },
        "iterations": _first(stated.get("iterations"), steps["iterations"]),
        "output_tokens": output_tokens,
        "output_tokens_per_s": output_tokens / span_s if span_s else None,
        "output_tokens_per_s_steady": steady_query(run_id).rows(con)[0]["tokens_per_s"],
        **{name: latency_query(run_id, name).rows(con)[0] for name in LATENCIES},
        "stalls": stalls_query(run_id).rows(con)[0]["stalls"],
        "prefix_hit_tokens": _first(stated.get("prefix_hit_tokens"), steps["prefix_hit"], 0),
        "preempted_hit_tokens": _first(stated.get("preempted_hit_tokens"), steps["preempted_hit"], 0),
        "draft_tokens": _first(stated.get("draft_tokens"), steps["draft"], 0),
        "accepted_tokens": _first(stated.get("accepted_tokens"), steps["accepted"], 0),
        "preemptions": _first(stated.get("preemptions"), steps["preempted"], 0),
        "kv_capacity_tokens": _first(stated.get("kv_capacity_tokens"), _loads(run["model"]).get("kv_capacity_tokens")),
        "kv_could_hold_tokens": _loads(run["model"]).get("kv_could_hold_tokens"),
        "peak_kv_tokens": _first(stated.get("peak_kv_tokens"), steps["peak_kv_tokens"]),
        "refused": stated.get("refused") or [],
        "output_digest": stated.get("output_digest"),
        "workload_hash": _first(run["workload_hash"], stated.get("workload_hash")),
    }


def small_samples(
    figures: Mapping[str, Any], names: Sequence[str] = LATENCIES, shares: Sequence[float] = PERCENTILES
) -> list[str]:
    """What to say beside a summary's percentiles where there are too few samples for some."""
    counts = {name: (figures.get(name) or {}).get("count") or 0 for name in names}
    return [words for name, count in counts.items() if (words := too_few_in_words(METRICS[name].title, count, shares))]


def latency_query(run_id: str, metric: str) -> Query:
    """Percentiles, ``mean`` and ``max`` of a per-row metric, in its unit, and the ``count`` of samples; null where the run has none."""
    definition = METRICS[metric]
    shares = ", ".join(f"{p}" for p in PERCENTILES)
    names = ", ".join(f"q[{k + 1}] AS {percentile_name(p)}" for k, p in enumerate(PERCENTILES))
    value = definition.expression
    return Query(
        f"""
SELECT {names}, mean, max, count FROM (
  SELECT quantile_cont({value}, [{shares}]) AS q, avg({value}) AS mean, max({value}) AS max, count({value}) AS count
  FROM {definition.source} WHERE run_id = $run
)""".strip(),
        {"run": run_id},
    )


def stalls_query(run_id: str) -> Query:
    """How many of the run's inter-token latencies are stalls."""
    return Query(
        "SELECT count(*) FILTER (itl_ns > $above) AS stalls FROM slices WHERE run_id = $run",
        {"run": run_id, "above": STALL_MS * 1e6},
    )


def totals_query(run_id: str) -> Query:
    return Query(
        f"""
SELECT count(*) AS total, count(*) FILTER ({COMPLETED_SQL}) AS finished, count(*) FILTER (end_reason = 'failed') AS failed,
       count(*) FILTER (end_reason = 'cancelled') AS cancelled, sum(output_tokens)::BIGINT AS output_tokens, min(arrival_ns) AS first_arrival_ns,
       max(end_ns) FILTER ({COMPLETED_SQL}) AS last_end_ns
FROM requests WHERE run_id = $run""".strip(),
        {"run": run_id},
    )


def steps_query(run_id: str) -> Query:
    return Query(
        """
SELECT nullif(count(*), 0) AS iterations, min(start_ns) AS first_start_ns,
       max(end_ns) FILTER (emitted_tokens > 0) AS last_emission_ns,
       sum(emitted_tokens)::BIGINT AS emitted, sum(prefix_hit_tokens)::BIGINT AS prefix_hit,
       sum(preempted_hit_tokens)::BIGINT AS preempted_hit,
       sum(draft_tokens)::BIGINT AS draft, sum(accepted_tokens)::BIGINT AS accepted,
       sum(preempted)::BIGINT AS preempted, max(kv_tokens) AS peak_kv_tokens
FROM iterations WHERE run_id = $run""".strip(),
        {"run": run_id},
    )


def steady_query(run_id: str) -> Query:
    """Output tokens/s of the steady state, as ``METRICS`` defines it; null where there is none."""
    return Query(
        """
WITH steps AS (FROM iterations WHERE run_id = $run),
     full_steps AS (FROM steps WHERE running >= $full * (SELECT max(running) FROM steps) AND running > 0),
     arrivals AS (SELECT max(arrival_ns) AS last_ns FROM requests WHERE run_id = $run),
     steady AS (SELECT min(start_ns) AS from_ns, greatest(max(start_ns), (SELECT last_ns FROM arrivals)) AS until_ns FROM full_steps)
SELECT CASE WHEN count(*) >= $fewest THEN 1e9 * sum(emitted_tokens) / nullif(max(end_ns) - min(start_ns), 0) END AS tokens_per_s
FROM steps, steady WHERE start_ns BETWEEN from_ns AND until_ns""".strip(),
        {"run": run_id, "full": FULL, "fewest": FEWEST_STEADY},
    )


def _span_s(requests: dict[str, Any], steps: dict[str, Any]) -> float | None:
    """Seconds from the first arrival to the last emission."""
    starts = [t for t in (requests["first_arrival_ns"], steps["first_start_ns"]) if t is not None]
    end = _first(steps["last_emission_ns"], requests["last_end_ns"])
    if not starts or end is None or end <= min(starts):
        return None
    return (end - min(starts)) / 1e9


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _loads(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}
