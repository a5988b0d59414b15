"""What other engines tell of themselves, under one set of names: sums over their requests, as they were read.

A *state* is a value at a moment, a *count* how much a counter grew between two readings, a *histogram* how many values fell into each
bucket between two readings; the sum of a histogram's values is a count of its own, named with ``.sum``. Quantiles of a histogram are known
only to the width of a bucket: they are interpolated within it (Prometheus: ``histogram_quantile``) and come with its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from store.metrics import METRICS
from store.query import Query

Kind = Literal["state", "count", "histogram"]
SUM = ".sum"


@dataclass(frozen=True)
class Figure:
    """A figure that engines tell: title, kind and unit."""

    title: str
    kind: Kind
    unit: str


FIGURES: dict[str, Figure] = {
    "running": Figure("Requests running", "state", "requests"),
    "waiting": Figure("Requests waiting", "state", "requests"),
    "kv_used_share": Figure("Share of the KV pool in use", "state", "share"),
    "cache_hit_share": Figure("Prefix-cache hits of what was looked up", "state", "share"),
    "accept_length": Figure("Tokens per verified draft", "state", "tokens"),
    "prompt_tokens": Figure("Prompt tokens", "count", "tokens"),
    "cached_tokens": Figure("Prompt tokens taken from the cache", "count", "tokens"),
    "output_tokens": Figure("Output tokens", "count", "tokens"),
    "prefix_query_tokens": Figure("Prompt tokens looked up in the prefix cache", "count", "tokens"),
    "prefix_hit_tokens": Figure("Prompt tokens found in the prefix cache", "count", "tokens"),
    "preemptions": Figure("Preemptions", "count", "requests"),
    "drafts": Figure("Drafts verified", "count", "drafts"),
    "draft_tokens": Figure("Speculative tokens verified", "count", "tokens"),
    "accepted_tokens": Figure("Speculative tokens accepted", "count", "tokens"),
    "requests_done": Figure("Requests ended", "count", "requests"),
    "steps": Figure("Engine steps", "count", "steps"),
    "prompt_s": Figure("Time spent on prompts", "count", "s"),
    "decode_s": Figure("Time spent on decoding", "count", "s"),
    "step_tokens": Figure("Tokens computed in a step", "histogram", "tokens"),
    "ttft": Figure("TTFT", "histogram", "s"),
    "itl": Figure("ITL", "histogram", "s"),
    "e2e": Figure("E2E", "histogram", "s"),
    "queue_time": Figure("Time in the queue", "histogram", "s"),
    "blocks_stored": Figure("KV blocks stored", "count", "blocks"),
    "blocks_removed": Figure("KV blocks removed", "count", "blocks"),
    "blocks_held": Figure("KV blocks stored and not removed, since watching began", "state", "blocks"),
    "cache_cleared": Figure("The cache was cleared", "count", "times"),
    "forward_s": Figure("Duration of a forward pass", "state", "s"),
    "prefill_requests": Figure("Requests with prompt tokens in a forward pass", "state", "requests"),
    "prefill_tokens": Figure("Prompt tokens in a forward pass", "state", "tokens"),
    "decode_requests": Figure("Decoding requests in a forward pass", "state", "requests"),
    "decode_kv_tokens": Figure("KV entries read by decodes in a forward pass", "state", "tokens"),
    "queued_requests": Figure("Requests queued behind a forward pass", "state", "requests"),
}
"""By name. Those of a forward pass and of KV events come over ZeroMQ only."""
OF_METRICS = tuple(name for name in FIGURES if name not in {
    "blocks_stored", "blocks_removed", "blocks_held", "cache_cleared", "forward_s", "prefill_requests", "prefill_tokens",
    "decode_requests", "decode_kv_tokens", "queued_requests",
})  # fmt: skip
"""What a page of metrics could tell."""


def series_query(run_id: str, name: str, source: str = "metrics") -> Query:
    """A figure over time: ``t`` (s), ``value``, for a count also ``per_s``; of several workers the sum."""
    return Query(
        """
SELECT time_ns / 1e9 AS t, sum(value) AS value, 1e9 * sum(value) / nullif(max(span_ns), 0) AS per_s, max(gap) AS gap
FROM foreign_figures WHERE run_id = $run AND name = $name AND source = $source AND bound IS NULL
GROUP BY time_ns ORDER BY time_ns""".strip(),
        {"run": run_id, "name": name, "source": source},
    )


def passes_query(run_id: str, limit: int = 5000) -> Query:
    """The last forward passes: ``t`` (s), ``forward_ms``, ``prefill_tokens``, ``decode_requests``, ``worker``."""
    return Query(
        """
FROM (SELECT time_ns / 1e9 AS t, worker, 1e3 * max(value) FILTER (name = 'forward_s') AS forward_ms,
       max(value) FILTER (name = 'prefill_tokens') AS prefill_tokens,
       max(value) FILTER (name = 'decode_requests') AS decode_requests
FROM foreign_figures WHERE run_id = $run AND source = 'forward_pass' GROUP BY time_ns, worker ORDER BY time_ns DESC LIMIT $limit)
ORDER BY t""".strip(),
        {"run": run_id, "limit": limit},
    )


def requests_query(run_id: str) -> Query:
    """Requests that the engine told one by one, in order of arrival: ``t`` (s, arrival), ``ttft_ms``, ``e2e_ms``, tokens, ``request_id``."""
    return Query(
        f"""
SELECT request, request_id, arrival_ns / 1e9 AS t, {METRICS["ttft_ms"].expression} AS ttft_ms, {METRICS["e2e_ms"].expression} AS e2e_ms,
       prompt_tokens, output_tokens
FROM requests WHERE run_id = $run ORDER BY arrival_ns, request""".strip(),
        {"run": run_id},
    )


def totals_query(run_id: str) -> Query:
    """One row for each name: ``source``, ``clock``, ``total``, ``last``, ``readings``, ``gaps``; histograms by their counts."""
    return Query(
        """
SELECT name, source, any_value(clock) AS clock, sum(value) AS total, arg_max(value, time_ns) AS last, avg(value) AS mean,
       max(value) AS most, count(DISTINCT time_ns) AS readings
FROM foreign_figures WHERE run_id = $run GROUP BY name, source ORDER BY name""".strip(),
        {"run": run_id},
    )


def peers_query(run_id: str) -> Query:
    """Where the rows come from: ``source``, ``address``, ``engine``, ``engine_version``, ``clock``, ``readings``, ``lost``, span in s."""
    return Query(
        """
SELECT source, address, engine, engine_version, clock, count(*) AS readings, sum(gap)::BIGINT AS lost,
       min(time_ns) / 1e9 AS first_s, max(time_ns) / 1e9 AS last_s
FROM (SELECT source, address, engine, engine_version, clock, worker, time_ns, max(gap) AS gap FROM foreign_figures
      WHERE run_id = $run GROUP BY ALL)
GROUP BY ALL ORDER BY source, address""".strip(),
        {"run": run_id},
    )


def histogram_query(run_id: str, name: str) -> Query:
    """The buckets of a histogram over the whole run: ``bound``, ``count``, in order."""
    return Query(
        """
SELECT bound, sum(value) AS count FROM foreign_figures WHERE run_id = $run AND name = $name AND bound IS NOT NULL
GROUP BY bound ORDER BY bound""".strip(),
        {"run": run_id, "name": name},
    )


@dataclass(frozen=True)
class Quantile:
    """A quantile of a histogram: interpolated, and the bounds of the bucket it lies in (``high`` may be infinite)."""

    value: float
    low: float
    high: float


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> Quantile | None:
    """``buckets``: (upper bound, values in the bucket), bounds rising. None of an empty histogram.

    In the last bucket, which has no upper bound, the value is its lower one.
    """
    total = sum(count for _, count in buckets)
    if total <= 0:
        return None
    rank, below, low = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count > 0 and below + count >= rank:
            within = max(0.0, rank - below) / count
            value = low if math.isinf(bound) else low + (bound - low) * within
            return Quantile(value, low, bound)
        below, low = below + count, bound
    return None


def quantiles(con: duckdb.DuckDBPyConnection, run_id: str, name: str, shares: Sequence[float]) -> list[Quantile | None]:
    """Quantiles of a histogram over the whole run."""
    rows: list[dict[str, Any]] = histogram_query(run_id, name).rows(con)
    return [quantile([(row["bound"], row["count"]) for row in rows], share) for share in shares]


def told(con: duckdb.DuckDBPyConnection, run_id: str) -> list[dict[str, Any]]:
    """One entry for each figure and source: ``name``, ``title``, ``unit``, ``kind``, ``source``, ``clock``, ``readings``, ``value`` (a
    state's mean, a count's or histogram's total); of histograms also ``mean`` and ``p50``, ``p99`` as ``[value, low, high]``.
    """
    totals = {(row["name"], row["source"]): row for row in totals_query(run_id).rows(con)}
    entries = []
    for (name, source), row in totals.items():
        figure = FIGURES.get(name)
        if figure is None:
            continue
        entry = {"name": name, "title": figure.title, "unit": figure.unit, "kind": figure.kind, "source": source,
                 "clock": row["clock"], "readings": row["readings"]}  # fmt: skip
        if figure.kind == "state":
            entry |= {"value": row["mean"], "last": row["last"], "most": row["most"]}
        else:
            entry["value"] = row["total"]
        if figure.kind == "histogram":
            sums = totals.get((name + SUM, source))
            entry["mean"] = sums["total"] / row["total"] if sums and row["total"] else None
            shares = quantiles(con, run_id, name, (0.5, 0.99))
            entry |= {
                share: None if q is None else [q.value, q.low, q.high if math.isfinite(q.high) else None]
                for share, q in zip(("p50", "p99"), shares, strict=True)
            }
        entries.append(entry)
    return entries


def not_told(con: duckdb.DuckDBPyConnection, run_id: str) -> list[str]:
    """Titles of what a page of metrics could tell and this engine's did not, as far as rows show; spans tell some of it, too."""
    known = {row["name"] for row in totals_query(run_id).rows(con)}
    if Query("SELECT 1 AS one FROM requests WHERE run_id = $run LIMIT 1", {"run": run_id}).rows(con):
        known |= {"ttft", "e2e", "queue_time"}
    return [FIGURES[name].title for name in OF_METRICS if name not in known]


def reported(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any]:
    """What a load generator's report says, as a run's summary has it: latencies with the figures that it gives, null for the others, and
    rates. Empty for a run that is no report.
    """
    query = Query("SELECT name, value FROM foreign_figures WHERE run_id = $run AND source = 'report'", {"run": run_id})
    figures: dict[str, Any] = {}
    for row in query.rows(con):
        name, _, stat = row["name"].partition(".")
        if not stat:
            figures[name] = row["value"]
        else:
            empty = dict.fromkeys(("p50", "p90", "p95", "p99", "mean", "max")) | {"count": 0}
            figures.setdefault(name, empty)[stat] = int(row["value"]) if stat == "count" else row["value"]
    return figures
