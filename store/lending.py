"""A far KV pool over a run: which blocks lay where, what attention there took, and what went over."""

from __future__ import annotations

from collections.abc import Sequence

from store.query import Query

BUCKETS = 60
MOST_REQUESTS = 24

HELD = """
WITH lent AS (
  SELECT request, iteration + (blocks < 0)::INTEGER AS since, arg_max(far_blocks, (blocks > 0, end_ns)) AS far_blocks
  FROM lendings WHERE run_id = $run GROUP BY request, since
), borrowers AS (
  SELECT request FROM lendings WHERE run_id = $run GROUP BY request ORDER BY max(far_blocks) DESC, request LIMIT $requests
), held AS (
  SELECT s.request, s.iteration, s.context_len + s.tokens AS tokens,
         least(s.context_len + s.tokens, coalesce(l.far_blocks, 0) * $size) AS far_tokens
  FROM (SELECT * FROM slices WHERE run_id = $run AND request IN (SELECT request FROM borrowers)) s
       ASOF LEFT JOIN lent l ON s.request = l.request AND s.iteration >= l.since
)"""
"""Of each step of the requests that borrowed most: their tokens, and those of them in the far pool."""


def pools_query(run_id: str, buckets: int = BUCKETS) -> Query:
    """Of stretches of the run: blocks that requests held in the KV pool and in the far pool, means over steps."""
    return Query(
        """
WITH steps AS (SELECT *, ntile($buckets) OVER (ORDER BY iteration) AS bucket FROM far_steps WHERE run_id = $run)
SELECT max(time_ns) / 1e9 AS t, min(iteration) AS first, max(iteration) AS last, avg(near_blocks) AS near_blocks,
       avg(far_blocks) AS far_blocks
FROM steps GROUP BY bucket ORDER BY bucket""".strip(),
        {"run": run_id, "buckets": buckets},
    )


def requests_query(run_id: str, block_size: int, buckets: int = BUCKETS, requests: int = MOST_REQUESTS) -> Query:
    """Of the requests that had most blocks in the far pool and stretches of the run: tokens they held in each pool."""
    return Query(
        f"""
{HELD.strip()}, placed AS (
  SELECT iteration, end_ns, ntile($buckets) OVER (ORDER BY iteration) AS bucket FROM iterations WHERE run_id = $run
), stretches AS (SELECT bucket, max(end_ns) / 1e9 AS t FROM placed GROUP BY bucket)
SELECT t, request, avg(tokens - far_tokens) AS near_tokens, avg(far_tokens) AS far_tokens,
       sum(far_tokens) / sum(tokens) AS far_share
FROM held JOIN placed USING (iteration) JOIN stretches USING (bucket) GROUP BY t, request ORDER BY request, t""".strip(),
        {"run": run_id, "size": block_size, "buckets": buckets, "requests": requests},
    )


STEPS = """
SELECT f.iteration, f.time_ns / 1e9 AS t, (i.end_ns - i.start_ns) / 1e6 AS ms, i.decode_requests,
       f.keys / nullif(f.keys + f.near_keys, 0) AS far_share, f.keys, f.near_keys, f.compute_ns / 1e6 AS far_ms,
       f.link_ns / 1e6 AS link_ms
FROM far_steps f JOIN iterations i USING (run_id, iteration)
WHERE run_id = $run AND i.prefill_requests = 0 AND i.decode_requests > 0""".strip()


def steps_query(run_id: str, limit: int = 4000) -> Query:
    """Decode steps: time, share of their keys that lay in the far pool, and what of the time attention there took."""
    return Query(
        f"SELECT *, coalesce(far_share, 0) AS share FROM ({STEPS}) ORDER BY iteration LIMIT $limit",
        {"run": run_id, "limit": limit},
    )


def summary_query(run_ids: Sequence[str]) -> Query:
    """A row for each run with a far pool: most blocks there, requests that borrowed, what was moved and sent, and the
    share of the time in steps that attention there took."""
    return Query(
        """
WITH steps AS (
  SELECT run_id, max(far_blocks) AS most_far_blocks, sum(sent_bytes + returned_bytes) / 1e6 AS sent_mb,
         sum(keys) / nullif(sum(keys + near_keys), 0) AS far_share, sum(compute_ns) / sum(end_ns - start_ns) AS compute_share,
         sum(link_ns) / sum(end_ns - start_ns) AS link_share, sum(compute_ns) FILTER (keys > 0) / 1e6 / nullif(count(*) FILTER (keys > 0), 0) AS far_ms
  FROM far_steps JOIN iterations USING (run_id, iteration) WHERE run_id IN (SELECT unnest($runs::VARCHAR[])) GROUP BY run_id
), moves AS (
  SELECT run_id, count(DISTINCT request) AS borrowers, sum(copied_blocks)::BIGINT AS moved_blocks, sum(bytes) / 1e6 AS moved_mb,
         sum(end_ns - start_ns) / 1e6 AS moving_ms
  FROM lendings WHERE run_id IN (SELECT unnest($runs::VARCHAR[])) GROUP BY run_id
)
SELECT run_id, most_far_blocks, coalesce(borrowers, 0) AS borrowers, coalesce(moved_blocks, 0) AS moved_blocks,
       coalesce(moved_mb, 0) AS moved_mb, coalesce(moving_ms, 0) AS moving_ms, sent_mb, far_share, far_ms, compute_share, link_share
FROM steps LEFT JOIN moves USING (run_id) ORDER BY list_position($runs::VARCHAR[], run_id)""".strip(),
        {"runs": list(run_ids)},
    )
