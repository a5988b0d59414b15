"""What prefix sharing gave in a run: over time, as three effects, and as the tree of prefixes at any iteration."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from store.query import Query

MOST_NODES = 20_000
MOST_CHANGES = 200_000


def savings_query(run_id: str, max_points: int = 2000) -> Query:
    return Query(
        """
WITH counted AS (
  SELECT end_ns / 1e9 AS t, iteration, blocks_spared, kv_bytes_spared,
         sum(prefix_hit_tokens) OVER w AS found_tokens, sum(prefill_tokens) OVER w AS computed_tokens,
         row_number() OVER w AS number, count(*) OVER () AS rows
  FROM iterations WHERE run_id = $run WINDOW w AS (ORDER BY iteration)
)
SELECT t, iteration, found_tokens::BIGINT AS found_tokens, computed_tokens::BIGINT AS computed_tokens,
       found_tokens / nullif(found_tokens + computed_tokens, 0) AS hit_rate, blocks_spared, kv_bytes_spared
FROM counted WHERE number = rows OR number % (rows // $points + 1) = 0 ORDER BY iteration""".strip(),
        {"run": run_id, "points": max(2, max_points)},
    )


def savings(con: duckdb.DuckDBPyConnection, run_id: str, max_points: int = 2000) -> pa.Table:
    """Prefix-cache hits and computed prompt tokens so far, the hit rate, and blocks and bytes spared at the moment."""
    return savings_query(run_id, max_points).table(con)


def effects_query(run_id: str) -> Query:
    return Query(
        """
SELECT sum(prefix_hit_tokens) / nullif(sum(prefix_hit_tokens) + sum(prefill_tokens), 0) AS prefill_share,
       sum(blocks_spared * (end_ns - start_ns)) / nullif(sum((blocks_used + blocks_spared) * (end_ns - start_ns)), 0)
         AS memory_share,
       sum(kv_bytes_spared) / nullif(sum(kv_bytes_spared) + sum(bytes), 0) AS read_share,
       sum(prefix_hit_tokens)::BIGINT AS tokens_found, sum(preempted_hit_tokens)::BIGINT AS tokens_found_again, max(blocks_spared) AS most_blocks_spared,
       sum(kv_bytes_spared) AS bytes_spared
FROM iterations WHERE run_id = $run""".strip(),
        {"run": run_id},
    )


def effects(con: duckdb.DuckDBPyConnection, run_id: str) -> pa.Table:
    """One row: the share of prefill not done again, of KV memory not held twice (over time), of memory traffic not needed."""
    return effects_query(run_id).table(con)


def tree_query(run_id: str, iteration: int, limit: int = MOST_NODES) -> Query:
    return Query(
        """
WITH history AS (
  SELECT *, rowid AS seq FROM blocks WHERE run_id = $run AND iteration <= $iteration AND block_hash IS NOT NULL
), paths AS (
  SELECT request, position, arg_max(block_hash, seq) AS hash FROM history
  WHERE event IN ('fill', 'share', 'quantise') GROUP BY request, position
), nodes AS (
  SELECT own.hash, any_value(above.hash) AS parent, min(own.position) AS position, count(DISTINCT own.request) AS requests,
         min(own.request) AS request
  FROM paths own LEFT JOIN paths above ON above.request = own.request AND above.position = own.position - 1
  GROUP BY own.hash
), latest AS (
  SELECT block_hash AS hash, arg_max(event, seq) AS event, arg_max(ref_count, seq) AS holders, arg_max(block, seq) AS block
  FROM history GROUP BY block_hash
)
SELECT hash, parent, position, requests, request, holders, block,
       CASE WHEN event = 'evict' THEN 'evicted' WHEN holders > 0 THEN 'in use' ELSE 'cached' END AS state
FROM nodes JOIN latest USING (hash) ORDER BY requests DESC, position, hash LIMIT $limit""".strip(),
        {"run": run_id, "iteration": iteration, "limit": limit},
    )


def tree(con: duckdb.DuckDBPyConnection, run_id: str, iteration: int, limit: int = MOST_NODES) -> pa.Table:
    """Every prefix block known by ``iteration``: which block it follows, how many requests used it (and the first of them), who holds it now.

    ``state`` is ``in use``, ``cached`` (held by nobody, found when it comes again) or ``evicted``. Most used first: what the limit cuts
    off was used least.
    """
    return tree_query(run_id, iteration, limit).table(con)


def tree_changes_query(run_id: str, limit: int = MOST_CHANGES) -> Query:
    """Every change of what became of a prefix block, in order: ``iteration``, ``hash``, ``before`` and ``after``, each 0 (not computed
    yet), 1 (in use), 2 (cached) or 3 (evicted).
    """
    return Query(
        """
WITH told AS (
  SELECT iteration, rowid AS seq, block_hash AS hash, CASE WHEN event = 'evict' THEN 3 WHEN ref_count > 0 THEN 1 ELSE 2 END AS after
  FROM blocks WHERE run_id = $run AND block_hash IS NOT NULL
), turned AS (
  SELECT *, lag(after, 1, 0) OVER (PARTITION BY hash ORDER BY seq) AS before FROM told
)
SELECT iteration, hash, before, after FROM turned WHERE before <> after ORDER BY seq LIMIT $limit""".strip(),
        {"run": run_id, "limit": limit},
    )


def evictions_query(run_id: str, limit: int = 5000) -> Query:
    return Query(
        """
WITH history AS (
  SELECT *, rowid AS seq FROM blocks WHERE run_id = $run
), evicted AS (
  SELECT seq, iteration, block, block_hash,
         lead(seq, 1, 9223372036854775807) OVER (PARTITION BY block_hash ORDER BY seq) AS gone_again
  FROM history WHERE event = 'evict'
), taken AS (  -- who got the block: the next that happened to it
  SELECT evicted.seq, arg_min(history.request, history.seq) AS taken_by
  FROM evicted JOIN history ON history.block = evicted.block AND history.seq > evicted.seq AND history.event = 'allocate'
  GROUP BY evicted.seq
), again AS (  -- who computed the same text afterwards
  SELECT evicted.seq, min(history.iteration) AS computed_again_at, arg_min(history.request, history.seq) AS computed_again_by
  FROM evicted JOIN history ON history.block_hash = evicted.block_hash AND history.event = 'fill'
    AND history.seq > evicted.seq AND history.seq < evicted.gone_again
  GROUP BY evicted.seq
), written AS (  -- whose text it was
  SELECT block_hash, arg_min(request, seq) AS written_by, min(position) AS position FROM history
  WHERE event = 'fill' AND block_hash IS NOT NULL GROUP BY block_hash
)
SELECT evicted.iteration AS evicted_at, block, position, written_by, taken_by, computed_again_at, computed_again_by
FROM evicted LEFT JOIN taken USING (seq) LEFT JOIN again USING (seq) LEFT JOIN written USING (block_hash)
ORDER BY evicted.seq LIMIT $limit""".strip(),
        {"run": run_id, "limit": limit},
    )


def evictions(con: duckdb.DuckDBPyConnection, run_id: str, limit: int = 5000) -> pa.Table:
    """Every cached block that gave way: whose text it held, for whom it went, and who later computed that text again.

    ``computed_again_by`` is null where the eviction cost nothing.
    """
    return evictions_query(run_id, limit).table(con)
