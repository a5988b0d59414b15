"""One iteration and those around it, for a picture that plays: the steps, who computed what in them, what was decided, which
blocks were touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from store.metrics import METRICS
from store.query import Query
from store.schema import quoted
from telemetry.rows import BLOCK_EVENTS, SLICE_KINDS, IterationRow, columns

MOST_STEPS = 400
MOST_SLICES = 40_000


def bounds_query(run_id: str) -> Query:
    """The first and the last iteration recorded, the longest one, and how many slices there are per iteration."""
    return Query(
        """
SELECT min(iteration) AS first, max(iteration) AS last, arg_max(iteration, end_ns - start_ns) AS longest, count(*) AS steps,
       (SELECT count(*) FROM slices WHERE run_id = $run) AS slices
FROM iterations WHERE run_id = $run""".strip(),
        {"run": run_id},
    )


def steps_query(run_id: str, first: int, last: int) -> Query:
    """Every column of the iterations from ``first`` to ``last``, both included."""
    names = ", ".join(quoted(name) for name in columns(IterationRow))
    return Query(
        f"SELECT {names}\nFROM iterations WHERE run_id = $run AND iteration BETWEEN $first AND $last ORDER BY iteration",
        {"run": run_id, "first": first, "last": last},
    )


def slices_query(run_id: str, first: int, last: int) -> Query:
    """Who computed what, as numbers. ``cached``: of the context, tokens found in the prefix cache when the request came;
    ``rank``: the request's place by the time it took its place in the engine."""
    kinds = " ".join(f"WHEN '{kind}' THEN {code}" for code, kind in enumerate(SLICE_KINDS))
    return Query(
        f"""
SELECT iteration::INTEGER AS iteration, request, (CASE kind {kinds} END)::INTEGER AS kind, tokens, context_len, drafted, accepted,
       emitted, coalesce({METRICS["itl_ms"].expression}, -1)::DOUBLE AS itl_ms, least(context_len, coalesce(cached_tokens, 0)) AS cached
FROM slices LEFT JOIN (SELECT request, cached_tokens, first_scheduled_ns FROM requests WHERE run_id = $run) USING (request)
WHERE run_id = $run AND iteration BETWEEN $first AND $last
ORDER BY iteration, first_scheduled_ns, request""".strip(),
        {"run": run_id, "first": first, "last": last},
    )


def decisions_query(run_id: str, first: int, last: int) -> Query:
    return Query(
        """
SELECT * EXCLUDE (run_id) FROM decisions WHERE run_id = $run AND iteration BETWEEN $first AND $last
ORDER BY iteration, time_ns, rowid""".strip(),
        {"run": run_id, "first": first, "last": last},
    )


def touched_query(run_id: str, first: int, last: int) -> Query:
    """How many blocks each iteration allocated, shared, filled, quantised, freed and evicted."""
    counts = ", ".join(f"count(*) FILTER (event = '{event}') AS {event}" for event in BLOCK_EVENTS)
    return Query(
        f"""
SELECT iteration, {counts} FROM blocks WHERE run_id = $run AND iteration BETWEEN $first AND $last
GROUP BY iteration ORDER BY iteration""".strip(),
        {"run": run_id, "first": first, "last": last},
    )


@dataclass(frozen=True)
class Bounds:
    """What iterations a run has."""

    first: int
    last: int
    longest: int
    slices_per_step: float


def bounds(con: duckdb.DuckDBPyConnection, run_id: str) -> Bounds | None:
    """None where no iteration was recorded."""
    row = bounds_query(run_id).rows(con)[0]
    if row["first"] is None:
        return None
    return Bounds(row["first"], row["last"], row["longest"], row["slices"] / row["steps"])


@dataclass(frozen=True)
class Window:
    """The iterations from ``first`` to ``last``, both included."""

    first: int
    last: int
    steps: pa.Table
    slices: pa.Table
    touched: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    names: dict[int, tuple[str, str]]  # of the requests in the slices: name in the workload, group


def window(con: duckdb.DuckDBPyConnection, run_id: str, around: int, known: Bounds) -> Window:
    """The iterations around one, as many as ``MOST_STEPS`` and about ``MOST_SLICES`` allow."""
    wide = int(min(MOST_STEPS, max(20, MOST_SLICES / max(1.0, known.slices_per_step))))
    first = max(known.first, min(around - wide // 2, known.last - wide + 1))
    last = min(known.last, first + wide - 1)
    slices = slices_query(run_id, first, last).table(con)
    named = Query(
        """
SELECT request, request_id, coalesce("group", '') AS "group" FROM requests WHERE run_id = $run AND request IN (
  SELECT request FROM slices WHERE run_id = $run AND iteration BETWEEN $first AND $last
)""".strip(),
        {"run": run_id, "first": first, "last": last},
    ).rows(con)
    return Window(
        first,
        last,
        steps_query(run_id, first, last).table(con),
        slices,
        touched_query(run_id, first, last).rows(con),
        decisions_query(run_id, first, last).rows(con),
        {row["request"]: (row["request_id"], row["group"]) for row in named},
    )
