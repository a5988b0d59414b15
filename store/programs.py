"""Programs of several turns over a run: where their time went, when they were done, and what pins did for their KV blocks."""

from __future__ import annotations

from collections.abc import Sequence

from store.metrics import COMPLETED_SQL, METRICS
from store.query import Query

PARTS = ("running", "queued", "tool")
"""Of a program's time, in the order in which they are stacked."""
MOST_BARS = 80


def per_program(runs: str) -> str:
    """SQL of a row for each program; ``runs``: the condition that chooses the runs."""
    return f"""
SELECT run_id, program, count(*) AS turns, min(arrival_ns) AS arrival_ns, bool_and({COMPLETED_SQL}) AS done,
       {METRICS["job_completion_s"].expression} AS completion_s, sum(end_ns - first_scheduled_ns) / 1e9 AS running_s,
       sum(coalesce(first_scheduled_ns, end_ns) - arrival_ns) / 1e9 AS queued_s,
       coalesce(sum(greatest(0, arrival_ns - before_ns)), 0) / 1e9 AS tool_s,
       coalesce(sum(greatest(0, least(known_tokens, prompt_tokens) - 1 - cached_tokens))
                FILTER (known_tokens IS NOT NULL AND first_scheduled_ns IS NOT NULL), 0)::BIGINT AS recomputed_tokens
FROM (
  SELECT *, lag(end_ns) OVER turns AS before_ns, lag(prompt_tokens + output_tokens) OVER turns AS known_tokens
  FROM requests WHERE program IS NOT NULL AND {runs} WINDOW turns AS (PARTITION BY run_id, program ORDER BY arrival_ns, request)
) GROUP BY run_id, program"""


OF_THESE_RUNS = "run_id IN (SELECT unnest($runs::VARCHAR[]))"
OF_THIS_RUN = "run_id = $run"


def programs_query(run_id: str, bars: int = MOST_BARS) -> Query:
    """Parts of the time of programs that were served to their end, in s, in order of arrival: of each, or means of neighbours where
    there are more than ``bars``; and tokens that late turns computed again."""
    means = ", ".join(f"avg({part}_s) AS {part}_s" for part in PARTS)
    return Query(
        f"""
WITH programs AS (SELECT * FROM ({per_program(OF_THIS_RUN)}) WHERE done),
     placed AS (SELECT *, ntile(least($bars, (SELECT count(*) FROM programs))::BIGINT) OVER (ORDER BY arrival_ns, program) AS bar FROM programs)
SELECT min(arrival_ns) / 1e9 AS t, min(program) AS first, count(*) AS programs, {means}, avg(completion_s) AS completion_s,
       avg(recomputed_tokens) AS recomputed_tokens
FROM placed GROUP BY bar ORDER BY bar""".strip(),
        {"run": run_id, "bars": bars},
    )


def completion_query(run_id: str) -> Query:
    """The share of programs that were done within a time since their first turn came: one row for each program that was served to
    its end, the quickest first."""
    return Query(
        f"""
WITH programs AS ({per_program(OF_THIS_RUN)})
SELECT completion_s, program, turns, row_number() OVER (ORDER BY completion_s, program) / (SELECT count(*) FROM programs) AS share
FROM programs WHERE done ORDER BY completion_s, program""".strip(),
        {"run": run_id},
    )


def summary_query(run_ids: Sequence[str]) -> Query:
    """A row for each run with programs: how many there were and were done, and means over those."""
    means = ", ".join(f"avg({part}_s) FILTER (done) AS {part}_s" for part in PARTS)
    return Query(
        f"""
SELECT run_id, count(*) AS programs, count(*) FILTER (done) AS done, avg(completion_s) FILTER (done) AS completion_s,
       median(completion_s) FILTER (done) AS median_s, {means}, avg(recomputed_tokens) FILTER (done) AS recomputed_tokens
FROM ({per_program(OF_THESE_RUNS)}) GROUP BY run_id ORDER BY list_position($runs::VARCHAR[], run_id)""".strip(),
        {"runs": list(run_ids)},
    )


def pinned_query(run_id: str) -> Query:
    """Blocks of the pool that were pinned, after each change of the pins."""
    return Query(
        """
SELECT time_ns / 1e9 AS t, pinned, action, reason, request, blocks FROM pins WHERE run_id = $run AND action IN ('pin', 'unpin')
ORDER BY time_ns, (action = 'pin')::INTEGER""".strip(),
        {"run": run_id},
    )


def pins_query(run_id: str) -> Query:
    """A row for each thing that became of ended turns' blocks, and each reason: how often, blocks, and mean times in s."""
    return Query(
        """
SELECT action, reason, count(*) AS times, sum(blocks)::BIGINT AS blocks, avg(ttl_ns) / 1e9 AS ttl_s, avg(held_ns) / 1e9 AS held_s,
       avg(chance) AS chance, avg(recompute_ns) / 1e9 AS recompute_s, avg(wait_ns) / 1e9 AS wait_s, avg(cost_ns) / 1e9 AS cost_s
FROM pins WHERE run_id = $run GROUP BY action, reason
ORDER BY list_position(['pin', 'unpin', 'decline', 'evict'], action), list_position(['back', 'ttl', 'forced', 'cancelled', 'end'], reason)""".strip(),
        {"run": run_id},
    )


def has_pins_query(run_ids: Sequence[str]) -> Query:
    return Query(f"SELECT count(*) AS pins FROM pins WHERE {OF_THESE_RUNS}", {"runs": list(run_ids)})
