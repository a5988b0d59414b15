"""Prefix blocks in tiers below the KV pool over a run: what was found where, what it took, and the TTFT of those who began with it."""

from __future__ import annotations

from store.metrics import METRICS
from store.query import Query

BUCKETS = 60
PLACES = ("nothing", "pool", "host", "disk")
"""Where a request's prefix was found; the lowest counts."""

FOUND = f"""
SELECT request, {METRICS["ttft_ms"].expression} AS ttft_ms, arrival_ns / 1e9 AS t, prompt_tokens, cached_tokens,
       coalesce(host_tokens, 0)::BIGINT AS host_tokens, coalesce(disk_tokens, 0)::BIGINT AS disk_tokens, coalesce(load_ms, 0) AS load_ms,
       CASE WHEN disk_tokens > 0 THEN 'disk' WHEN host_tokens > 0 THEN 'host' WHEN cached_tokens > 0 THEN 'pool' ELSE 'nothing' END AS place
FROM requests LEFT JOIN (
  SELECT request, sum(tokens) FILTER (tier = 'host') AS host_tokens, sum(tokens) FILTER (tier = 'disk') AS disk_tokens,
         sum(duration_ns) / 1e6 AS load_ms
  FROM tiers WHERE run_id = $run AND action = 'load' GROUP BY request
) USING (request)
WHERE run_id = $run AND first_token_ns IS NOT NULL""".strip()
"""Each request that had a first token: its TTFT, and where its prefix was found."""


def work_query(run_id: str) -> Query:
    """A row for each tier and what was done there: how often, blocks, tokens, bytes before and after the codec, time, how much of it the
    engine stood still for and the codec's part of it, rate, and the predicted times."""
    return Query(
        """
SELECT tier, action, count(*) AS times, sum(blocks)::BIGINT AS blocks, sum(tokens)::BIGINT AS tokens, sum(bytes)::BIGINT AS bytes,
       sum(stored_bytes)::BIGINT AS stored_bytes, sum(duration_ns) / 1e6 AS ms, sum(waited_ns) / 1e6 AS waited_ms,
       sum(codec_ns) / 1e6 AS codec_ms,
       sum(bytes) / nullif(sum(duration_ns), 0) AS gb_per_s, sum(load_ns) / 1e6 AS load_ms,
       sum(recompute_ns) / 1e6 AS recompute_ms
FROM tiers WHERE run_id = $run GROUP BY tier, action
ORDER BY CASE tier WHEN 'host' THEN 0 ELSE 1 END,
         CASE action WHEN 'store' THEN 0 WHEN 'load' THEN 1 WHEN 'decline' THEN 2 WHEN 'lose' THEN 3 ELSE 4 END""".strip(),
        {"run": run_id},
    )


def hits_query(run_id: str, buckets: int = BUCKETS) -> Query:
    """Of stretches of the run: prompt tokens found in the pool, loaded from host memory and from disk, and found and computed again."""
    return Query(
        """
WITH moved AS (
  SELECT iteration, sum(tokens) FILTER (action = 'load' AND tier = 'host') AS host, sum(tokens) FILTER (action = 'load' AND tier = 'disk') AS disk,
         sum(tokens) FILTER (action = 'decline') AS declined
  FROM tiers WHERE run_id = $run GROUP BY iteration
), steps AS (
  SELECT iteration, end_ns, prefix_hit_tokens + preempted_hit_tokens AS found, coalesce(host, 0) AS host, coalesce(disk, 0) AS disk,
         coalesce(declined, 0) AS declined, ntile($buckets) OVER (ORDER BY iteration) AS bucket
  FROM iterations LEFT JOIN moved USING (iteration) WHERE run_id = $run
)
SELECT max(end_ns) / 1e9 AS t, min(iteration) AS first, max(iteration) AS last,
       greatest(0, sum(found) - sum(host) - sum(disk))::BIGINT AS pool_tokens, sum(host)::BIGINT AS host_tokens,
       sum(disk)::BIGINT AS disk_tokens, sum(declined)::BIGINT AS declined_tokens
FROM steps GROUP BY bucket ORDER BY bucket""".strip(),
        {"run": run_id, "buckets": buckets},
    )


def requests_query(run_id: str, limit: int = 5000) -> Query:
    """Each request that had a first token: its TTFT, and where its prefix was found."""
    return Query(f"{FOUND}\nORDER BY request LIMIT $limit", {"run": run_id, "limit": limit})


def ttft_query(run_id: str) -> Query:
    """A row for each place in which prefixes were found: requests, their median TTFT, and what they began with."""
    return Query(
        f"""
SELECT place, count(*) AS requests, median(ttft_ms) AS ttft_ms, avg(prompt_tokens) AS prompt_tokens, avg(cached_tokens) AS cached_tokens,
       avg(load_ms) AS load_ms
FROM ({FOUND}) GROUP BY place
ORDER BY CASE place WHEN 'nothing' THEN 0 WHEN 'pool' THEN 1 WHEN 'host' THEN 2 ELSE 3 END""".strip(),
        {"run": run_id},
    )


def waits_query(run_id: str) -> Query:
    """A row for each tier and way between it and the pool: time that copies took, in two parts: what the engine stood still for, and what
    was hidden behind steps. Of loads also how long requests waited for them."""
    return Query(
        """
SELECT tier, action, greatest(sum(duration_ns), sum(waited_ns)) / 1e6 AS ms, sum(waited_ns) / 1e6 AS waited_ms,
       greatest(0, sum(duration_ns) - sum(waited_ns)) / 1e6 AS hidden_ms,
       avg(time_ns - asked_ns) FILTER (asked_ns IS NOT NULL) / 1e6 AS request_ms
FROM tiers WHERE run_id = $run AND action IN ('load', 'store') GROUP BY tier, action
ORDER BY CASE tier WHEN 'host' THEN 0 ELSE 1 END, action""".strip(),
        {"run": run_id},
    )


def levels_query(run_id: str, limit: int = 5000) -> Query:
    """Each time that a level of the tier codec was chosen, over a stretch of blocks of one request: when, for what, at which rate of the
    link, and with how much time left to the bound."""
    return Query(
        """
SELECT time_ns / 1e9 AS t, iteration, request, level, blocks, tokens, link_bytes_per_s / 1e9 AS gb_per_s, left_s * 1e3 AS left_ms
FROM tiers WHERE run_id = $run AND level IS NOT NULL ORDER BY time_ns LIMIT $limit""".strip(),
        {"run": run_id, "limit": limit},
    )


def stack_query(run_id: str) -> Query:
    """A row for each place in which prefixes were found: TTFT in parts that add up to it, means over requests.

    ``wait_ms`` until the first step that computed for the request began, without what was loaded for it meanwhile, ``store_ms`` for which
    the engine stood still to keep blocks of others, ``transfer_ms`` for loading without decoding, ``decode_ms`` for decoding, ``compute_ms`` the rest.
    """
    return Query(
        f"""
WITH parts AS (
  SELECT r.place, r.ttft_ms, q.first_scheduled_ns, q.arrival_ns,
         coalesce((SELECT sum(duration_ns) FROM tiers AS t WHERE t.run_id = $run AND t.action = 'load' AND t.request = q.request
                   AND t.time_ns <= q.first_token_ns), 0) / 1e6 AS load_ms,
         coalesce((SELECT sum(codec_ns) FROM tiers AS t WHERE t.run_id = $run AND t.action = 'load' AND t.request = q.request
                   AND t.time_ns <= q.first_token_ns), 0) / 1e6 AS decode_ms,
         coalesce((SELECT sum(duration_ns) FROM tiers AS t WHERE t.run_id = $run AND t.action = 'load' AND t.request = q.request
                   AND t.time_ns <= q.first_scheduled_ns), 0) / 1e6 AS before_ms,
         coalesce((SELECT sum(waited_ns) FROM tiers AS t WHERE t.run_id = $run AND t.action = 'store'
                   AND t.time_ns BETWEEN q.first_scheduled_ns AND q.first_token_ns), 0) / 1e6 AS store_ms
  FROM ({FOUND}) AS r JOIN requests AS q USING (request) WHERE q.run_id = $run AND q.first_scheduled_ns IS NOT NULL
)
SELECT place, count(*) AS requests, avg(ttft_ms) AS ttft_ms, avg(greatest(0, (first_scheduled_ns - arrival_ns) / 1e6 - before_ms)) AS wait_ms,
       avg(store_ms) AS store_ms,
       avg(load_ms - decode_ms) AS transfer_ms, avg(decode_ms) AS decode_ms,
       avg(greatest(0, ttft_ms - (first_scheduled_ns - arrival_ns) / 1e6 - store_ms - (load_ms - before_ms))) AS compute_ms
FROM parts GROUP BY place
ORDER BY CASE place WHEN 'nothing' THEN 0 WHEN 'pool' THEN 1 WHEN 'host' THEN 2 ELSE 3 END""".strip(),
        {"run": run_id},
    )


def loss_query(run_id: str) -> Query:
    """A row for each layer: the relative error of keys and of values that the tier codec rounded, over all blocks it encoded. No row
    where there was no codec."""
    return Query(
        """
WITH codec AS (SELECT summary::JSON -> 'tier_codec' AS said FROM runs WHERE run_id = $run)
SELECT unnest(range(json_array_length(said, '$.key_error')::BIGINT)) AS layer, unnest(CAST(said -> 'key_error' AS DOUBLE[])) AS key_error,
       unnest(CAST(said -> 'value_error' AS DOUBLE[])) AS value_error
FROM codec WHERE json_type(said) = 'OBJECT'""".strip(),
        {"run": run_id},
    )
