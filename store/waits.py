"""Why not sooner: how long every request waited and for what, because of whom, and what was computed between its tokens.

A request that waits cannot overtake, so what stopped admission in a step (``iterations.admission_stop``) is what all wait for
until the next step is planned:

    arrival      plan          plan                  plan
       |--next---->|--blocks---->|--blocks------------>| first scheduled
                   the step that admission stopped in decides

Times between two plans add up over the steps, so a run with many requests asks for running sums at two places of each, not for
every step that each of them saw.
"""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from store.metrics import METRICS
from store.query import Query
from telemetry.rows import ADMISSION_STOPS

STOPS = tuple(stop for stop in ADMISSION_STOPS if stop != "none_waiting")
WAITS = ("next_plan", *STOPS, "preempted")
"""What a request waits for: the plan after its arrival, what stopped admission, and after a preemption to be let in again."""
GAPS = ("beside_decodes", "beside_prefill", "without", "preempted", "recomputed", "between")
"""What passed between two tokens of a request: a step of its own beside decodes alone or beside others' prompts, steps without
it, steps while it was thrown out, steps that computed it anew, and the time between steps."""

STEPS = """
steps AS (
  SELECT iteration, start_ns, end_ns, waiting, prefill_tokens,
         CASE WHEN admission_stop = 'none_waiting' THEN 'policy' ELSE admission_stop END AS stop,
         coalesce(lead(start_ns) OVER (ORDER BY iteration), end_ns) AS next_ns, lag(end_ns) OVER (ORDER BY iteration) AS before_ns
  FROM iterations WHERE run_id = $run
)""".strip()
"""Every step, until when its plan holds. A policy that asked for nobody has stopped admission, too."""

THROWN = """
thrown AS (
  SELECT request, iteration, start_ns AS since_ns FROM decisions JOIN steps USING (iteration)
  WHERE run_id = $run AND action = 'preempted' AND ($request::INTEGER IS NULL OR request = $request)
), back AS (
  SELECT thrown.request, thrown.iteration, since_ns, slice.iteration AS back_at, coalesce(steps.start_ns, ended.end_ns) AS until_ns
  FROM thrown ASOF LEFT JOIN (
    SELECT request, iteration FROM slices WHERE run_id = $run AND request IN (SELECT request FROM thrown)
  ) slice ON thrown.request = slice.request AND thrown.iteration <= slice.iteration
  LEFT JOIN steps ON steps.iteration = slice.iteration
  LEFT JOIN (SELECT request, end_ns FROM requests WHERE run_id = $run) ended ON ended.request = thrown.request
)""".strip()
"""Every preemption, and when a step computed for the request again (or it ended)."""

WEIGHT = """
CASE stop WHEN 'blocks' THEN context_len + tokens WHEN 'max_requests' THEN 1 WHEN 'tails' THEN 1
          WHEN 'prefix' THEN CASE WHEN kind = 'prefill' THEN tokens ELSE 0 END ELSE tokens END""".strip()
"""A request's share of a step that others waited for: keys and values held, a place, a prompt computed, tokens of the budget."""


def waits_query(run_id: str, request: int | None = None) -> Query:
    """``waits`` of everybody, or of one request."""
    sums = ", ".join(
        f"coalesce(sum(next_ns - start_ns) FILTER (stop = '{stop}') OVER before, 0) AS {stop}" for stop in STOPS
    )
    apart = ", ".join(
        f"greatest(0, last.{stop} + CASE WHEN last.stop = '{stop}' THEN until_ns - last.start_ns ELSE 0 END - first.{stop}) "
        f"/ 1e6 AS {stop}_ms"
        for stop in STOPS
    )
    planned = ", ".join(f"CASE WHEN planned THEN {stop}_ms ELSE 0 END AS {stop}_ms" for stop in STOPS)
    return Query(
        f"""
WITH {STEPS}, {THROWN}, sums AS (
  SELECT iteration, start_ns, stop, {sums}
  FROM steps WINDOW before AS (ORDER BY iteration ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), queued AS (
  SELECT request, request_id, "group", arrival_ns AS since_ns, coalesce(first_scheduled_ns, end_ns) AS until_ns
  FROM requests WHERE run_id = $run AND ($request::INTEGER IS NULL OR request = $request)
), measured AS (
  SELECT queued.*, coalesce(first.start_ns < until_ns, false) AS planned, first.start_ns AS first_ns, {apart}
  FROM queued ASOF LEFT JOIN sums first ON since_ns <= first.start_ns ASOF LEFT JOIN sums last ON until_ns >= last.start_ns
), again AS (
  SELECT request, sum(until_ns - since_ns) / 1e6 AS ms FROM back GROUP BY request
)
SELECT request, request_id, "group", (until_ns - since_ns) / 1e6 + coalesce(ms, 0) AS waited_ms,
       (CASE WHEN planned THEN first_ns ELSE until_ns END - since_ns) / 1e6 AS next_plan_ms, {planned},
       coalesce(ms, 0) AS preempted_ms
FROM measured LEFT JOIN again USING (request) ORDER BY request""".strip(),
        {"run": run_id, "request": request},
    )


def waits(con: duckdb.DuckDBPyConnection, run_id: str, request: int | None = None) -> pa.Table:
    """Every request that ended, or one: how long it waited (``waited_ms``), and for what (``<reason>_ms`` of ``WAITS``, which add up to it)."""
    return waits_query(run_id, request).table(con)


def waits_by_group_query(run_id: str) -> Query:
    each = waits_query(run_id)
    sums = ", ".join(f"sum({name}_ms) AS {name}_ms" for name in ("waited", *WAITS))
    return Query(
        f"""
SELECT coalesce("group", '') AS "group", count(*) AS requests, {sums}, max(waited_ms) AS longest_ms, arg_max(request, waited_ms) AS longest
FROM ({each.sql}) GROUP BY ALL ORDER BY "group\"""".strip(),
        each.parameters,
    )


def waits_by_group(con: duckdb.DuckDBPyConnection, run_id: str) -> pa.Table:
    """``waits`` added up for each group of requests, and the request of it that waited longest."""
    return waits_by_group_query(run_id).table(con)


def preemptions_query(run_id: str, request: int | None = None) -> Query:
    """Every preemption: whose, and from when to when it was out of the pool (ns)."""
    return Query(
        f"""
WITH {STEPS}, {THROWN}
SELECT request, since_ns, until_ns FROM back WHERE until_ns > since_ns ORDER BY request, since_ns""".strip(),
        {"run": run_id, "request": request},
    )


def blame_query(run_id: str, request: int | None = None, limit: int = 20) -> Query:
    """``request``: whose waiting is counted; None: everybody's."""
    return Query(
        f"""
WITH {STEPS}, {THROWN}, spells AS (
  SELECT request, arrival_ns AS since_ns, coalesce(first_scheduled_ns, end_ns) AS until_ns FROM requests
  WHERE run_id = $run AND request = $request
  UNION ALL SELECT request, since_ns, until_ns FROM back
), held AS (  -- how long somebody waited from the plan of each step to the next
  SELECT iteration, stop, waiting * (next_ns - start_ns)::DOUBLE AS ns FROM steps WHERE $request::INTEGER IS NULL AND waiting > 0
  UNION ALL
  SELECT iteration, stop, sum(greatest(0, least(until_ns, next_ns) - greatest(since_ns, start_ns)))::DOUBLE AS ns
  FROM steps JOIN spells ON next_ns > since_ns AND start_ns < until_ns WHERE $request::INTEGER IS NOT NULL GROUP BY ALL
), parts AS (
  SELECT iteration, request, ns, stop, {WEIGHT} AS weight FROM slices JOIN held USING (iteration)
  WHERE run_id = $run AND ($request::INTEGER IS NULL OR request <> $request)
), whole AS (SELECT iteration, sum(weight) AS weight FROM parts GROUP BY iteration)
SELECT parts.request, any_value(request_id) AS request_id, any_value("group") AS "group",
       sum(ns * parts.weight / nullif(whole.weight, 0)) / 1e6 AS held_up_ms, count(*) AS iterations,
       arg_max(stop, ns) AS mostly_for
FROM parts JOIN whole USING (iteration) LEFT JOIN (FROM requests WHERE run_id = $run) named ON named.request = parts.request
GROUP BY parts.request HAVING held_up_ms > 0 ORDER BY held_up_ms DESC, parts.request LIMIT $limit""".strip(),
        {"run": run_id, "request": request, "limit": limit},
    )


def blame(con: duckdb.DuckDBPyConnection, run_id: str, request: int | None = None, limit: int = 20) -> pa.Table:
    """Because of whom: the waiting time of each step is shared out to those it computed for, by what was waited for (``WEIGHT``).

    ``held_up_ms``: of all who waited together, or of one ``request``.
    """
    return blame_query(run_id, request, limit).table(con)


def spells_query(run_id: str, request: int) -> Query:
    """One request's waiting, a row for every step whose plan left it out, with the last refusal there was."""
    return Query(
        f"""
WITH {STEPS}, {THROWN}, spells AS (
  SELECT arrival_ns AS since_ns, coalesce(first_scheduled_ns, end_ns) AS until_ns, false AS preempted FROM requests
  WHERE run_id = $run AND request = $request
  UNION ALL SELECT since_ns, until_ns, true FROM back
), refused AS (
  SELECT iteration, request, reason, tokens, tokens_left, blocks_needed, blocks_free FROM decisions
  WHERE run_id = $run AND action = 'refused'
)
SELECT steps.iteration, greatest(since_ns, start_ns) AS since_ns, least(until_ns, next_ns) AS until_ns,
       CASE WHEN preempted THEN 'preempted' WHEN start_ns < since_ns THEN 'next_plan' ELSE stop END AS reason, stop,
       CASE WHEN refused.reason = stop THEN refused.request END AS head, refused.iteration AS refused_at,
       refused.tokens, tokens_left, blocks_needed, blocks_free
FROM steps JOIN spells ON next_ns > since_ns AND start_ns < until_ns
ASOF LEFT JOIN refused ON steps.iteration >= refused.iteration ORDER BY steps.iteration""".strip(),
        {"run": run_id, "request": request},
    )


def spells(con: duckdb.DuckDBPyConnection, run_id: str, request: int) -> list[dict[str, Any]]:
    """One request's waiting in order of time: spells for one reason behind one ``head`` of the queue.

    ``iteration`` and ``last_iteration`` bound the steps; the numbers are those of the last refusal. The head may be the request itself.
    """
    told: list[dict[str, Any]] = []
    for row in spells_query(run_id, request).rows(con):
        before = told[-1] if told else None
        if before is not None and all(before[name] == row[name] for name in ("reason", "head", "refused_at")):
            before |= {"until_ns": row["until_ns"], "last_iteration": row["iteration"]}
        else:
            told.append(row | {"last_iteration": row["iteration"]})
    return told


PARTS = """
emissions AS (
  SELECT request, iteration, kind, emitted, itl_ns, start_ns, end_ns, before_ns, prefill_tokens
  FROM slices JOIN steps USING (iteration)
  WHERE run_id = $run AND itl_ns IS NOT NULL AND ($request::INTEGER IS NULL OR request = $request)
), long AS (  -- the steps before its own, where there were any since the token before
  SELECT request, emissions.iteration, unnest(range(previous.iteration + 1, emissions.iteration)) AS step
  FROM emissions JOIN steps previous ON previous.end_ns = emissions.end_ns - itl_ns
  WHERE emissions.end_ns - itl_ns < emissions.before_ns
), parts AS (
  SELECT request, iteration, CASE WHEN kind = 'prefill' THEN 'recomputed' WHEN prefill_tokens > 0 THEN 'beside_prefill'
                                  ELSE 'beside_decodes' END AS kind, end_ns - start_ns AS ns
  FROM emissions
  UNION ALL
  SELECT long.request, long.iteration,
         CASE WHEN own.request IS NOT NULL THEN 'recomputed' WHEN thrown_at <= step THEN 'preempted' ELSE 'without' END,
         steps.end_ns - steps.start_ns
  FROM long JOIN steps ON steps.iteration = step
  LEFT JOIN (SELECT request, iteration FROM slices WHERE run_id = $run AND request IN (SELECT request FROM long)) own
    ON own.request = long.request AND own.iteration = step
  LEFT JOIN (
    SELECT long.request, long.iteration, min(thrown.iteration) AS thrown_at
    FROM (SELECT request, iteration, min(step) AS first FROM long GROUP BY ALL) long
    JOIN thrown ON thrown.request = long.request AND thrown.iteration BETWEEN first AND long.iteration GROUP BY ALL
  ) gone ON gone.request = long.request AND gone.iteration = long.iteration
)""".strip()
"""The steps between two emissions of a request, and what each was to it (``GAPS``)."""

KINDS = ", ".join(f"coalesce(sum(ns) FILTER (kind = '{kind}'), 0) / 1e6 AS {kind}_ms" for kind in GAPS[:-1])
SPENT = " - ".join(["itl_ms", *(f"{kind}_ms" for kind in GAPS[:-1])])


def gaps_query(run_id: str, request: int | None = None) -> Query:
    return Query(
        f"""
WITH {STEPS}, {THROWN}, {PARTS}, told AS (SELECT request, iteration, count(*) AS iterations, {KINDS} FROM parts GROUP BY ALL)
SELECT request, iteration, end_ns / 1e9 AS t, emitted, {METRICS["itl_ms"].expression} AS itl_ms, iterations,
       {", ".join(f"{kind}_ms" for kind in GAPS[:-1])}, {SPENT} AS between_ms
FROM emissions JOIN told USING (request, iteration) ORDER BY request, iteration""".strip(),
        {"run": run_id, "request": request},
    )


def gaps(con: duckdb.DuckDBPyConnection, run_id: str, request: int | None = None) -> pa.Table:
    """Every gap between two emissions of a request (None: of all): its length, the steps in it, and what they were (``GAPS``, in ms)."""
    return gaps_query(run_id, request).table(con)


def gaps_by_group_query(run_id: str) -> Query:
    return Query(
        f"""
WITH {STEPS}, {THROWN}, {PARTS}, each AS (
  SELECT request, {KINDS} FROM parts GROUP BY request
), whole AS (
  SELECT request, count(*) AS gaps, sum({METRICS["itl_ms"].expression}) AS itl_ms FROM emissions GROUP BY request
), told AS (
  SELECT coalesce("group", '') AS "group", gaps, itl_ms, each.* EXCLUDE (request), {SPENT} AS between_ms
  FROM whole JOIN each USING (request) LEFT JOIN (SELECT request, "group" FROM requests WHERE run_id = $run) USING (request)
)
SELECT "group", sum(gaps)::BIGINT AS gaps, {", ".join(f"sum({name}_ms) AS {name}_ms" for name in ("itl", *GAPS))}
FROM told GROUP BY ALL ORDER BY ALL""".strip(),
        {"run": run_id, "request": None},
    )


def gaps_by_group(con: duckdb.DuckDBPyConnection, run_id: str) -> pa.Table:
    """``gaps`` added up for each group of requests."""
    return gaps_by_group_query(run_id).table(con)
