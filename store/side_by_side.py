"""Two runs of the same requests beside each other: request by request, and where their schedules part.

A request is the same in both where its name in the workload is; of several with one name, in order of arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from store import waits
from store.iteration_window import decisions_query
from store.metrics import METRICS
from store.query import Query

SIDES = ("before", "after")
COMPARED = ("ttft_ms", "tpot_ms", "e2e_ms")


def requests_query(before: str, after: str) -> Query:
    """A row for each request that ended in one of the runs: its numbers there (null: it did not end), its latencies."""
    figures = ", ".join(f"{METRICS[name].expression} AS {name}" for name in COMPARED)
    sides = ", ".join(
        f"""{side} AS (
  SELECT request, request_id, "group", output_tokens, {figures}, row_number() OVER (PARTITION BY request_id ORDER BY request) AS turn
  FROM requests WHERE run_id = ${side}
)"""
        for side in SIDES
    )
    apart = ", ".join(f"{side}.{name} AS {name}_{side}" for name in (*COMPARED, "output_tokens") for side in SIDES)
    return Query(
        f"""
WITH {sides}
SELECT request_id, coalesce(before."group", after."group", '') AS "group", before.request AS before, after.request AS after, {apart}
FROM before FULL JOIN after USING (request_id, turn) ORDER BY coalesce(before.request, after.request), request_id""".strip(),
        {"before": before, "after": after},
    )


def requests_beside(con: duckdb.DuckDBPyConnection, before: str, after: str) -> list[dict[str, Any]]:
    """``requests_query`` with what each waited for: ``waited`` by side (a row of ``store.waits.waits``, or None)."""
    rows = requests_query(before, after).rows(con)
    waited = {
        side: {row["request"]: row for row in waits.waits(con, run_id).to_pylist()}
        for side, run_id in zip(SIDES, (before, after), strict=True)
    }
    return [row | {"waited": {side: waited[side].get(row[side]) for side in SIDES}} for row in rows]


def waited_apart(row: dict[str, Any]) -> list[tuple[str, float, float]]:
    """What a request waited for in one run and not, or not as long, in the other: reason, ms before, ms after.

    The largest difference first; what differs by less than a tenth of a millisecond is left out. ``row``: of
    ``requests_beside``.
    """
    sides = [row["waited"][side] or {} for side in SIDES]
    times = {reason: [float(side.get(f"{reason}_ms") or 0.0) for side in sides] for reason in waits.WAITS}
    apart = [(reason, ms[0], ms[1]) for reason, ms in times.items() if abs(ms[1] - ms[0]) >= 0.1]
    return sorted(apart, key=lambda told: -abs(told[2] - told[1]))


BATCHES = """
SELECT iteration, bit_xor(hash(request, kind, tokens)) AS batch, count(*) AS requests
FROM slices WHERE run_id = {run} GROUP BY iteration""".strip()


def parting_query(before: str, after: str) -> Query:
    """``parts_at``: the first iteration whose batches differ (null: none does); ``same``: iterations that are the same in both
    before that; ``before`` and ``after``: iterations of each run that computed something."""
    return Query(
        f"""
WITH before AS ({BATCHES.format(run="$before")}), after AS ({BATCHES.format(run="$after")}), both_of AS (
  SELECT iteration, before.batch IS NOT DISTINCT FROM after.batch AND before.requests IS NOT DISTINCT FROM after.requests AS same
  FROM before FULL JOIN after USING (iteration)
), parted AS (SELECT min(iteration) FILTER (NOT same) AS parts_at FROM both_of)
SELECT parts_at, (SELECT count(*) FROM both_of WHERE iteration < coalesce(parts_at, 9223372036854775807)) AS same,
       (SELECT count(*) FROM before) AS before, (SELECT count(*) FROM after) AS after
FROM parted""".strip(),
        {"before": before, "after": after},
    )


def batch_query(run_id: str, iteration: int) -> Query:
    """Who computed what in an iteration: request, name, kind, tokens."""
    return Query(
        """
SELECT request, request_id, kind, tokens FROM slices
LEFT JOIN (SELECT request, request_id FROM requests WHERE run_id = $run) USING (request)
WHERE run_id = $run AND iteration = $iteration ORDER BY request""".strip(),
        {"run": run_id, "iteration": iteration},
    )


@dataclass(frozen=True)
class Parting:
    """Where two schedules part. ``only``: by side, what its batch has and the other's has not."""

    at: int | None
    same: int
    iterations: dict[str, int]
    began_ns: dict[str, int | None]
    only: dict[str, list[dict[str, Any]]]
    decisions: dict[str, list[dict[str, Any]]]


def parting(con: duckdb.DuckDBPyConnection, before: str, after: str) -> Parting | None:
    """None where one of the runs did not record its batches (recording *full* does)."""
    row = parting_query(before, after).rows(con)[0]
    counts = {side: row[side] for side in SIDES}
    if not all(counts.values()):
        return None
    at, runs = row["parts_at"], dict(zip(SIDES, (before, after), strict=True))
    if at is None:
        return Parting(None, row["same"], counts, dict.fromkeys(SIDES), {}, {})
    batches = {side: batch_query(run_id, at).rows(con) for side, run_id in runs.items()}
    decided = {side: _decisions(con, run_id, at) for side, run_id in runs.items()}
    return Parting(
        at,
        row["same"],
        counts,
        {side: _began(con, run_id, at) for side, run_id in runs.items()},
        {side: _without(batches[side], batches[other], ("request", "kind", "tokens")) for side, other in _turned()},
        {side: _without(decided[side], decided[other], ("request", "action", "reason")) for side, other in _turned()},
    )


ALIGNED = {"time": "time since the start, s", "iteration": "iteration", "token": "output tokens of the run so far"}
"""By what two runs are aligned, and what stands on the axis."""


def aligned(con: duckdb.DuckDBPyConnection, run_id: str, steps: pa.Table, by: str) -> pa.Table:
    """Steps (of ``store.queries.iterations``) with ``t`` as the place of each on an axis of ``ALIGNED``: its end, its
    number, or how many tokens the run had given out by then."""
    if by == "time":
        return steps
    at = np.asarray(steps["iteration"], dtype=np.int64)
    if by == "token":
        emitted = emitted_query(run_id).table(con)
        places = np.searchsorted(np.asarray(emitted["iteration"]), at)
        at = np.asarray(emitted["tokens"])[places]
    return steps.set_column(steps.column_names.index("t"), "t", pa.array(at.astype(np.float64)))


def emitted_query(run_id: str) -> Query:
    """How many tokens a run had given out after each iteration."""
    return Query(
        """
SELECT iteration, (sum(emitted_tokens) OVER (ORDER BY iteration))::BIGINT AS tokens
FROM iterations WHERE run_id = $run ORDER BY iteration""".strip(),
        {"run": run_id},
    )


def tokens_query(run_id: str, request: int) -> Query:
    """One request's emissions: iteration, its tokens so far, and ms since it arrived."""
    return Query(
        """
SELECT iteration, (sum(emitted) OVER (ORDER BY iteration))::BIGINT AS tokens,
       (iterations.end_ns - (SELECT arrival_ns FROM requests WHERE run_id = $run AND request = $request)) / 1e6 AS since_arrival_ms
FROM slices JOIN iterations USING (run_id, iteration)
WHERE run_id = $run AND request = $request AND emitted > 0 ORDER BY iteration""".strip(),
        {"run": run_id, "request": request},
    )


def _turned() -> tuple[tuple[str, str], ...]:
    return (SIDES, (SIDES[1], SIDES[0]))


def _without(rows: list[dict[str, Any]], other: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows that the other has not, compared by some of their columns."""
    known = {tuple(row[name] for name in names) for row in other}
    return [row for row in rows if tuple(row[name] for name in names) not in known]


def _decisions(con: duckdb.DuckDBPyConnection, run_id: str, iteration: int) -> list[dict[str, Any]]:
    return decisions_query(run_id, iteration, iteration).rows(con)


def _began(con: duckdb.DuckDBPyConnection, run_id: str, iteration: int) -> int | None:
    rows = Query(
        "SELECT start_ns FROM iterations WHERE run_id = $run AND iteration = $iteration",
        {"run": run_id, "iteration": iteration},
    ).rows(con)
    return rows[0]["start_ns"] if rows else None
