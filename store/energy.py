"""What a run's work cost in energy: of the whole run, of its output tokens, of each request.

Device samples carry a counter of joules (NVML's of the board; RAPL's of the processor's packages). Between two samples it is taken to grow
evenly, so a step has the counter's difference between its start and its end. What requests cost is *modelled*: a step's energy is divided
among its requests by the tokens they computed in it.
"""

from __future__ import annotations

from typing import Any

import duckdb

from store.query import Query

READINGS = """
readings AS (
  SELECT device, time_ns, coalesce(lead(time_ns) OVER later, time_ns) AS next_ns,
         greatest(coalesce(lead(energy) OVER later - energy, 0), 0) AS more_j
  FROM devices WHERE run_id = $run AND energy IS NOT NULL WINDOW later AS (PARTITION BY device ORDER BY time_ns)
), grown AS (
  SELECT time_ns, next_ns, more_j, sum(more_j) OVER (ORDER BY time_ns) - more_j AS before_j
  FROM readings WHERE device = (SELECT min(device) FROM readings)
)""".strip()
"""The counter, in joules since the first sample; where it falls (its driver was loaded anew) nothing is added."""


def _at(moment: str, reading: str) -> str:
    """The counter at a moment within a reading's stretch, in joules since the first one."""
    share = f"least(1.0, ({moment} - {reading}.time_ns) / nullif({reading}.next_ns - {reading}.time_ns, 0)::DOUBLE)"
    return f"coalesce({reading}.before_j + coalesce({share}, 0) * {reading}.more_j, 0)"


STEP_ENERGY = f"""
{READINGS}, steps AS (
  SELECT iteration, start_ns, end_ns, emitted_tokens, {_at("start_ns", "began")} AS began_j, {_at("end_ns", "ended")} AS ended_j
  FROM (SELECT * FROM iterations WHERE run_id = $run) iterations
  ASOF LEFT JOIN grown began ON iterations.start_ns >= began.time_ns
  ASOF LEFT JOIN grown ended ON iterations.end_ns >= ended.time_ns
)""".strip()


def run_energy_query(run_id: str) -> Query:
    """``joules`` from the start of the first step to the end of the last, time between steps included, and
    ``joules_per_token`` of the output; no row without a counter."""
    return Query(
        f"""
WITH {STEP_ENERGY}
SELECT max(ended_j) - min(began_j) AS joules, (max(ended_j) - min(began_j)) / nullif(sum(emitted_tokens), 0) AS joules_per_token
FROM steps HAVING count(*) > 0 AND (SELECT count(*) FROM grown) > 1""".strip(),
        {"run": run_id},
    )


def request_energy_query(run_id: str, request: int | None = None) -> Query:
    """What each request cost, or this one: ``request``, ``group``, ``tokens`` computed for it, ``joules``."""
    return Query(
        f"""
WITH {STEP_ENERGY}, batches AS (
  SELECT iteration, sum(tokens) AS tokens FROM slices WHERE run_id = $run GROUP BY iteration
)
SELECT slices.request, any_value(requests."group") AS "group", sum(slices.tokens)::BIGINT AS tokens,
       sum((ended_j - began_j) * slices.tokens / nullif(batches.tokens, 0)) AS joules
FROM slices JOIN steps USING (iteration) JOIN batches USING (iteration)
LEFT JOIN (SELECT request, "group" FROM requests WHERE run_id = $run) requests ON requests.request = slices.request
WHERE run_id = $run AND ($request::INTEGER IS NULL OR slices.request = $request) AND (SELECT count(*) FROM grown) > 1
GROUP BY slices.request ORDER BY slices.request""".strip(),
        {"run": run_id, "request": request},
    )


def energy_over_time_query(run_id: str, max_points: int = 2000) -> Query:
    """The counter over time: ``t`` (s), ``joules`` since the first sample; every k-th sample where there are more."""
    return Query(
        f"""
WITH {READINGS}, numbered AS (SELECT *, row_number() OVER (ORDER BY time_ns) - 1 AS i, count(*) OVER () AS n FROM grown)
SELECT time_ns / 1e9 AS t, before_j AS joules FROM numbered WHERE i % (n // $points + 1) = 0 ORDER BY time_ns""".strip(),
        {"run": run_id, "points": max(2, max_points)},
    )


def run_energy(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any]:
    """``energy_j`` and ``energy_per_token_j`` of a run; empty where no counter was read."""
    row = run_energy_query(run_id).one(con)
    return {} if row is None else {"energy_j": row["joules"], "energy_per_token_j": row["joules_per_token"]}
