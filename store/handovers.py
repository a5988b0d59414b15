"""Where a request's lifetime went with prefill and decode in halves of their own, and what handing it over took.

The five parts are DistServe's: prefill queue, prefill, decode queue, transfer, decode. The decode queue is the time between the first
token and the decode half's place for the request, and from the arrival of its blocks to the next step. Without halves a request has
no transfer and waits for no decode; the same query says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.metrics import METRICS
from store.query import Query

PARTS = ("prefill_queue", "prefill", "decode_queue", "transfer", "decode")
"""Of a request's lifetime, in the order in which they are stacked."""
MOST_BARS = 80
BUCKETS = 120

_LIFETIMES = f"""
SELECT r.run_id, r.request, arrival_ns, {METRICS["scheduling_delay_ms"].expression} AS prefill_queue_ms,
       (first_token_ns - first_scheduled_ns) / 1e6 AS prefill_ms,
       coalesce(((asked_ns - prefilled_ns) + (joined_ns - h.end_ns)) / 1e6, 0) AS decode_queue_ms,
       coalesce((h.end_ns - asked_ns) / 1e6, 0) AS transfer_ms,
       (r.end_ns - coalesce(joined_ns, first_token_ns)) / 1e6 AS decode_ms
FROM requests r LEFT JOIN (
  SELECT run_id, request, min(prefilled_ns) AS prefilled_ns, min(asked_ns) AS asked_ns, arg_min(end_ns, asked_ns) AS end_ns,
         min(joined_ns) AS joined_ns
  FROM handovers GROUP BY run_id, request
) h USING (run_id, request)
WHERE first_token_ns IS NOT NULL AND run_id IN (SELECT unnest($runs::VARCHAR[]))"""


def lifetimes_query(run_id: str, bars: int = MOST_BARS) -> Query:
    """The parts of requests' lifetimes in order of arrival, in ms: of each request, or means of neighbours where there are more than
    ``bars``. Only requests that got a token."""
    means = ", ".join(f"avg({part}_ms) AS {part}_ms" for part in PARTS)
    return Query(
        f"""
WITH lifetimes AS ({_LIFETIMES}),
     placed AS (SELECT *, ntile(least($bars, (SELECT count(*) FROM lifetimes))::BIGINT) OVER (ORDER BY arrival_ns, request) AS bar FROM lifetimes)
SELECT min(arrival_ns) / 1e9 AS t, min(request) AS first, count(*) AS requests, {means}
FROM placed GROUP BY bar ORDER BY bar""".strip(),
        {"runs": [run_id], "bars": bars},
    )


def parts_query(run_ids: Sequence[str]) -> Query:
    """A row for each run: the mean of each part over its requests in ms, and how many were handed over."""
    means = ", ".join(f"avg({part}_ms) AS {part}_ms" for part in PARTS)
    return Query(
        f"""
WITH lifetimes AS ({_LIFETIMES})
SELECT run_id, count(*) AS requests, {means}, (SELECT count(*) FROM handovers WHERE run_id = lifetimes.run_id) AS handed_over
FROM lifetimes GROUP BY run_id ORDER BY list_position($runs::VARCHAR[], run_id)""".strip(),
        {"runs": list(run_ids)},
    )


def transfers_query(run_id: str, limit: int = 5000) -> Query:
    """Every request that was handed over: bytes, and what that took from asking to arrival, in ms."""
    return Query(
        """
SELECT end_ns / 1e9 AS t, request, tokens, blocks, blocks_kept, copies, bytes / 1e6 AS mb, (end_ns - asked_ns) / 1e6 AS transfer_ms,
       (end_ns - start_ns) / 1e6 AS copying_ms
FROM handovers WHERE run_id = $run ORDER BY end_ns LIMIT $limit""".strip(),
        {"run": run_id, "limit": limit},
    )


def busy_query(run_id: str, buckets: int = BUCKETS) -> Query:
    """Of stretches of the run: the share of the time in which each half was in a step."""
    spent = "greatest(0, least(end_ns, until_ns) - greatest(start_ns, from_ns))"
    return Query(
        f"""
WITH steps AS (SELECT half, start_ns, end_ns FROM iterations WHERE run_id = $run AND half IS NOT NULL),
     span AS (SELECT min(start_ns) AS first_ns, max(end_ns) AS last_ns FROM steps),
     stretches AS (
       SELECT first_ns + (last_ns - first_ns) * i / $buckets AS from_ns, first_ns + (last_ns - first_ns) * (i + 1) / $buckets AS until_ns
       FROM span, range(0, $buckets) AS places(i) WHERE last_ns > first_ns
     )
SELECT until_ns / 1e9 AS t, coalesce(sum({spent}) FILTER (half = 'prefill'), 0) / (until_ns - from_ns) AS prefill_share,
       coalesce(sum({spent}) FILTER (half = 'decode'), 0) / (until_ns - from_ns) AS decode_share
FROM stretches LEFT JOIN steps ON end_ns > from_ns AND start_ns < until_ns GROUP BY from_ns, until_ns ORDER BY from_ns""".strip(),
        {"run": run_id, "buckets": buckets},
    )


def share_query(run_id: str, buckets: int = BUCKETS) -> Query:
    """Of stretches of the run: the threads that each half had for the steps that began in it, their mean by the time of the steps; null
    where none did."""
    mean = "sum(half_threads * (end_ns - start_ns)) FILTER (half = '{half}') / nullif(sum(end_ns - start_ns) FILTER (half = '{half}'), 0)"
    return Query(
        f"""
WITH steps AS (
       SELECT half, half_threads, start_ns, end_ns FROM iterations WHERE run_id = $run AND half IS NOT NULL AND half_threads IS NOT NULL
     ),
     span AS (SELECT min(start_ns) AS first_ns, max(end_ns) AS last_ns FROM steps),
     placed AS (
       SELECT *, least($buckets - 1, (start_ns - first_ns) * $buckets // greatest(1, last_ns - first_ns)) AS stretch FROM steps, span
     )
SELECT any_value(first_ns + (last_ns - first_ns) * (stretch + 1) / $buckets) / 1e9 AS t,
       {mean.format(half="prefill")} AS prefill_threads, {mean.format(half="decode")} AS decode_threads
FROM placed GROUP BY stretch ORDER BY stretch""".strip(),
        {"run": run_id, "buckets": buckets},
    )


def halves_query(run_id: str) -> Query:
    """A row for each half: steps, time in steps as a share of the run, threads in the mean step, tokens computed and emitted."""
    return Query(
        f"""
WITH steps AS (SELECT *, {METRICS["iteration_ms"].expression} AS ms FROM iterations WHERE run_id = $run AND half IS NOT NULL)
SELECT half, count(*) AS steps, sum(ms) / nullif((SELECT max(end_ns) - min(start_ns) FROM steps) / 1e6, 0) AS busy_share,
       avg(half_threads) AS threads, sum(prefill_tokens + decode_tokens + draft_tokens)::BIGINT AS computed, sum(emitted_tokens)::BIGINT AS emitted
FROM steps GROUP BY half ORDER BY half DESC""".strip(),
        {"run": run_id},
    )
