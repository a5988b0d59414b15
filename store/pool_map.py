"""The KV pool as it was: every block at any iteration, replayed from the ``block`` rows.

What a block is follows from the last thing that happened to it: held while it has references, cached while it can be found
by its hash, else free. A picture that plays takes the pool before its first iteration, and every event from there on.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from store.query import Query
from telemetry.rows import BLOCK_EVENTS

MOST_EVENTS = 60_000
MOST_STEPS = 10_000
"""Events that a picture takes at once, and iterations on each side of the one that is asked for: 2 MB, replayed within a frame."""


def _history(until: str) -> str:
    return f"""
history AS (
  SELECT *, rowid AS seq FROM blocks WHERE run_id = $run AND {until}
), latest AS (
  SELECT block, arg_max(event, seq) AS event, arg_max(ref_count, seq) AS ref_count, arg_max(position, seq) AS position,
         max(iteration) AS changed, last(block_hash ORDER BY seq) AS hash,
         coalesce(max(seq) FILTER (event = 'fill'), -1) > coalesce(max(seq) FILTER (event = 'allocate'), -1) AS is_full,
         coalesce(max(seq) FILTER (event = 'quantise'), -1) > coalesce(max(seq) FILTER (event = 'allocate'), -1) AS packed,
         arg_max(request, seq) FILTER (event = 'allocate') AS owner
  FROM history GROUP BY block
), holders AS (
  SELECT block, request, lies.position FROM (
    SELECT block, request, arg_max(event, seq) AS last, arg_max(position, seq) AS position
    FROM history WHERE request IS NOT NULL GROUP BY block, request
  ) lies JOIN latest USING (block) WHERE last <> 'free' AND ref_count > 0
)""".strip()


STATE = "CASE WHEN ref_count > 0 THEN 'used' WHEN event = 'free' AND hash IS NOT NULL THEN 'cached' ELSE 'free' END"


def pool_at_query(run_id: str, iteration: int) -> Query:
    return Query(
        f"""
WITH {_history("iteration <= $iteration")}, held AS (
  SELECT block, list(request ORDER BY request) AS requests FROM holders GROUP BY block
)
SELECT block, {STATE} AS state, event, ref_count, latest.position, changed, owner, is_full, packed,
       CASE WHEN event <> 'evict' THEN hash END AS block_hash, coalesce(requests, []) AS requests
FROM latest LEFT JOIN held USING (block) ORDER BY block""".strip(),
        {"run": run_id, "iteration": iteration},
    )


def pool_at(con: duckdb.DuckDBPyConnection, run_id: str, iteration: int) -> pa.Table:
    """Every block touched so far as it was after ``iteration``.

    ``state`` is ``used`` (held by ``requests``), ``cached`` (held by nobody, its prefix can be found) or ``free``; ``owner`` wrote it
    last, ``is_full`` and ``packed`` say what became of its tokens.
    """
    return pool_at_query(run_id, iteration).table(con)


def holders_query(run_id: str, before: int) -> Query:
    return Query(
        f"""
WITH {_history("iteration < $before")}
SELECT block, request, position FROM holders ORDER BY block, request""".strip(),
        {"run": run_id, "before": before},
    )


def events_query(run_id: str, first: int, last: int) -> Query:
    """What happened from ``first`` to ``last``, both included, as numbers; -1 stands for nobody and nowhere."""
    codes = " ".join(f"WHEN '{event}' THEN {code}" for code, event in enumerate(BLOCK_EVENTS))
    return Query(
        f"""
SELECT iteration::INTEGER AS iteration, block, (CASE event {codes} END)::INTEGER AS event, coalesce(request, -1) AS request,
       coalesce(position, -1) AS position, ref_count, (block_hash IS NOT NULL)::INTEGER AS findable
FROM blocks WHERE run_id = $run AND iteration BETWEEN $first AND $last ORDER BY rowid""".strip(),
        {"run": run_id, "first": first, "last": last},
    )


def window_query(run_id: str, iteration: int, most_events: int = MOST_EVENTS, most_steps: int = MOST_STEPS) -> Query:
    """The iterations around one that have at most so many events in all, about half of them on each side, and are at most
    ``most_steps`` away; always that one."""
    return Query(
        """
WITH counted AS (
  SELECT iteration, count(block) AS events FROM iterations LEFT JOIN (
    SELECT iteration, block FROM blocks WHERE run_id = $run
  ) USING (iteration) WHERE run_id = $run GROUP BY iteration
), summed AS (
  SELECT iteration, sum(events) OVER (ORDER BY iteration) AS until, sum(events) OVER () AS whole FROM counted
), middle AS (SELECT any_value(until) FILTER (iteration = $iteration) AS here, any_value(whole) AS every FROM summed)
SELECT min(iteration) AS first, max(iteration) AS last FROM summed, middle
WHERE iteration BETWEEN $iteration - $steps AND $iteration + $steps AND (
  iteration = $iteration OR every <= $most
  OR (iteration < $iteration AND until > here - $most // 2) OR (iteration > $iteration AND until <= here + $most // 2)
)""".strip(),
        {"run": run_id, "iteration": iteration, "most": most_events, "steps": most_steps},
    )


@dataclass(frozen=True)
class PoolWindow:
    """What a picture of the pool plays: the pool before ``first``, and every event to ``last``. All columns are numbers."""

    first: int
    last: int
    blocks: int  # in the pool
    start: pa.Table  # block, event, findable, refs, owner, is_full, packed, changed: of the blocks touched before
    holders: pa.Table  # block, request, position
    events: pa.Table  # iteration, block, event, request, position, ref_count, findable
    steps: pa.Table  # iteration, start_ns, end_ns


def start_query(run_id: str, before: int) -> Query:
    codes = " ".join(f"WHEN '{event}' THEN {code}" for code, event in enumerate(BLOCK_EVENTS))
    return Query(
        f"""
WITH {_history("iteration < $before")}
SELECT block, (CASE event {codes} END)::INTEGER AS event, (hash IS NOT NULL)::INTEGER AS findable, ref_count AS refs,
       coalesce(owner, -1)::INTEGER AS owner, is_full::INTEGER AS is_full, packed::INTEGER AS packed, changed::INTEGER AS changed
FROM latest ORDER BY block""".strip(),
        {"run": run_id, "before": before},
    )


def pool_window(
    con: duckdb.DuckDBPyConnection, run_id: str, iteration: int, most_events: int = MOST_EVENTS
) -> PoolWindow | None:
    """The pool around an iteration; None where that iteration or its blocks were not recorded."""
    whole = Query(
        """
SELECT max(blocks_total) AS blocks, bool_or(iteration = $iteration) AS there,
       EXISTS (FROM blocks WHERE run_id = $run) AS recorded FROM iterations WHERE run_id = $run""".strip(),
        {"run": run_id, "iteration": iteration},
    ).one(con)
    if not whole or not whole["there"] or not whole["recorded"]:
        return None
    bounds = window_query(run_id, iteration, most_events).rows(con)[0]
    first, last = bounds["first"], bounds["last"]
    return PoolWindow(
        first,
        last,
        whole["blocks"],
        start_query(run_id, first).table(con),
        holders_query(run_id, first).table(con),
        events_query(run_id, first, last).table(con),
        Query(
            """
SELECT iteration::INTEGER AS iteration, start_ns::DOUBLE AS start_ns, end_ns::DOUBLE AS end_ns
FROM iterations WHERE run_id = $run AND iteration BETWEEN $first AND $last ORDER BY iteration""".strip(),
            {"run": run_id, "first": first, "last": last},
        ).table(con),
    )


def fullest_query(run_id: str) -> Query:
    """The first and the last iteration of a run, and the first one after which its pool was fullest."""
    return Query(
        """
SELECT min(iteration) AS first, max(iteration) AS last, arg_max(iteration, (blocks_used, -iteration)) AS fullest
FROM iterations WHERE run_id = $run""".strip(),
        {"run": run_id},
    )


def names_query(run_id: str, most: int = 20_000) -> Query:
    """What requests are called in the workload."""
    return Query(
        "SELECT request, request_id FROM requests WHERE run_id = $run ORDER BY request LIMIT $most",
        {"run": run_id, "most": most},
    )
