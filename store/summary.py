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

from store.energy import run_energy
from store.foreign import reported
from store.machine import machine_of
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
from telemetry.status import LABEL_DISTURBED

LATENCIES = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms")
ITL_PER_TOKEN = "itl_token_ms"
GROUP = '''coalesce("group", '') AS "group"'''
GROUPS = '(SELECT run_id, request, "group" FROM requests WHERE run_id = $run)'
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
    disturbances = machine_of(con, run_id)["disturbances"]
    stated_requests = stated.get("requests", {})
    progress = _loads(run["progress"])
    output_tokens = _first(stated.get("output_tokens"), steps["emitted"], requests["output_tokens"], 0)
    span_s = _span_s(requests, steps)
    figures = {
        "run_id": run_id,
        "status": run["state"],
        "labels": _with_disturbed(json.loads(run["labels"] or "[]"), disturbances),
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
        **{name: latency_query(run_id, name).rows(con)[0] for name in (*LATENCIES, ITL_PER_TOKEN)},
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
        "groups": group_figures(con, run_id, span_s),
        "disturbances": disturbances,
    }
    return figures | run_energy(con, run_id) | reported(con, run_id)


def group_figures(con: duckdb.DuckDBPyConnection, run_id: str, span_s: float | None) -> dict[str, dict[str, Any]]:
    """The figures of each group of requests, by its name; of requests without a group the name is empty.

    Latencies as in the summary, ``requests``, ``stalls``, ``output_tokens``, and ``output_tokens_per_s`` over the whole run's span.
    """
    counts = {row.pop("group"): row for row in group_totals_query(run_id).rows(con)}
    latencies = {
        name: {row.pop("group"): row for row in latency_query(run_id, name, by_group=True).rows(con)}
        for name in (*LATENCIES, ITL_PER_TOKEN)
    }
    none = dict.fromkeys(LATENCY_FIGURES) | {"count": 0}
    return {
        group: {
            "requests": {"total": row["total"], "finished": row["finished"]},
            **{name: by_group.get(group, none) for name, by_group in latencies.items()},
            "stalls": row["stalls"],
            "output_tokens": row["output_tokens"],
            "output_tokens_per_s": row["output_tokens"] / span_s if span_s else None,
        }
        for group, row in counts.items()
    }


def latencies_of(*figures: Mapping[str, Any]) -> dict[str, str]:
    """The latencies that summaries are shown with, and their titles. Inter-token latency is two, per emission and per token, where
    speculation makes them differ in any of the summaries.
    """
    titles = {name: METRICS[name].title for name in LATENCIES}
    counts = [[(told.get(name) or {}).get("count") for name in ("itl_ms", ITL_PER_TOKEN)] for told in figures]
    if not any(tokens is not None and tokens != emissions for emissions, tokens in counts):
        return titles
    apart: dict[str, str] = {}
    for name, title in titles.items():
        apart[name] = title
        if name == "itl_ms":
            apart |= {name: f"{title}, per emission", ITL_PER_TOKEN: METRICS[ITL_PER_TOKEN].title}
    return apart


def small_samples(
    figures: Mapping[str, Any], names: Sequence[str] = LATENCIES, shares: Sequence[float] = PERCENTILES
) -> list[str]:
    """What to say beside a summary's percentiles where there are too few samples for some."""
    counts = {name: (figures.get(name) or {}).get("count") or 0 for name in names}
    return [words for name, count in counts.items() if (words := too_few_in_words(METRICS[name].title, count, shares))]


def latency_query(run_id: str, metric: str, *, by_group: bool = False) -> Query:
    """Percentiles, ``mean`` and ``max`` of a per-row metric, in its unit, and the ``count`` of samples; null where the run has none.
    ``by_group``: a row for each group of requests, led by ``group``.
    """
    definition = METRICS[metric]
    shares = ", ".join(f"{p}" for p in PERCENTILES)
    names = ", ".join(f"q[{k + 1}] AS {percentile_name(p)}" for k, p in enumerate(PERCENTILES))
    value, source = definition.expression, definition.source
    rows = (
        source
        if definition.times is None
        else f"(SELECT *, unnest(range({definition.times})) FROM {source} WHERE run_id = $run)"
    )
    if by_group and source != "requests":
        rows = f"{rows} JOIN {GROUPS} USING (run_id, request)"
    group = f"{GROUP}, " if by_group else ""
    return Query(
        f"""
SELECT {'"group", ' if by_group else ""}{names}, mean, max, count FROM (
  SELECT {group}quantile_cont({value}, [{shares}]) AS q, avg({value}) AS mean, max({value}) AS max, count({value}) AS count
  FROM {rows} WHERE run_id = $run{" GROUP BY ALL" if by_group else ""}
)""".strip(),
        {"run": run_id},
    )


def group_totals_query(run_id: str) -> Query:
    """Requests, output tokens and stalls of each group."""
    return Query(
        f"""
WITH gaps AS (SELECT request, count(*) FILTER (itl_ns > $above) AS stalls FROM slices WHERE run_id = $run GROUP BY request)
SELECT {GROUP}, count(*) AS total, count(*) FILTER ({COMPLETED_SQL}) AS finished, sum(output_tokens)::BIGINT AS output_tokens,
       coalesce(sum(stalls), 0)::BIGINT AS stalls
FROM requests LEFT JOIN gaps USING (request) WHERE run_id = $run GROUP BY ALL ORDER BY ALL""".strip(),
        {"run": run_id, "above": STALL_MS * 1e6},
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


def _with_disturbed(labels: list[str], disturbances: Sequence[str]) -> list[str]:
    return [*labels, LABEL_DISTURBED] if disturbances and LABEL_DISTURBED not in labels else labels


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _loads(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}
