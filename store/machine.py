"""The machine while a run was served: clocks, temperature, load, and what visibly disturbed it."""

from __future__ import annotations

import json
from typing import Any

import duckdb

from store.limits import OTHERS_CPU, cores_and_threads, others_cpu
from store.query import Query

SILENCE_S, SILENCES = 5.0, 10  # without a sample of the device: at least so long, and so many times what is usual
CLOCK_DROP = 0.05  # share of its own highest clock the chip lost during the run
THROTTLED = 0b11101000  # NVML: slowdowns by hardware, temperature or power brake; not idle, power cap or settings


def machine_query(run_id: str) -> Query:
    return Query(
        """
SELECT count(*) AS samples, avg(sm_clock) AS clock_mhz, min(sm_clock) AS lowest_clock_mhz,
       max(sm_clock) AS highest_clock_mhz, avg(temperature) AS temperature_c, max(temperature) AS hottest_c,
       avg(power) AS power_w, avg(host_cpu_percent) AS host_cpu_percent, avg(cpu_percent) AS cpu_percent,
       bit_or(throttle_reasons) AS throttle_reasons, bool_or(device <> 'cpu') AS gpu,
       max(since_ns) / 1e9 AS longest_silence_s, median(since_ns) / 1e9 AS usual_silence_s
FROM (SELECT *, time_ns - lag(time_ns) OVER (PARTITION BY device ORDER BY time_ns) AS since_ns FROM devices WHERE run_id = $run)""".strip(),
        {"run": run_id},
    )


def disturbed_stretches_query(run_id: str, cores: int | None) -> Query:
    """When the device throttled itself and when others took the machine, second by second: ``kind`` (``throttled`` or ``others``),
    ``from_s``, ``to_s`` on the run's clock, and ``others_percent``, the most of the machine that they took in a second.
    """
    return Query(
        """
WITH seconds AS (
  SELECT time_ns // 1000000000 AS second, min(time_ns) AS from_ns, max(time_ns) AS to_ns,
         bool_or((coalesce(throttle_reasons, 0) & $throttled) <> 0) AS throttled,
         greatest(avg(host_cpu_percent) - avg(cpu_percent) / $cores::DOUBLE, 0) AS others_percent
  FROM devices WHERE run_id = $run GROUP BY second
), kinds AS (
  SELECT 'throttled' AS kind, second, from_ns, to_ns, NULL::DOUBLE AS others_percent FROM seconds WHERE throttled
  UNION ALL
  SELECT 'others', second, from_ns, to_ns, others_percent FROM seconds WHERE others_percent > $most
)
SELECT kind, min(from_ns) / 1e9 AS from_s, max(to_ns) / 1e9 AS to_s, max(others_percent) AS others_percent
FROM (SELECT *, second - row_number() OVER (PARTITION BY kind ORDER BY second) AS stretch FROM kinds)
GROUP BY kind, stretch ORDER BY from_s, kind""".strip(),
        {"run": run_id, "cores": cores, "throttled": THROTTLED, "most": OTHERS_CPU},
    )


def disturbed_stretches(con: duckdb.DuckDBPyConnection, run_id: str) -> list[dict[str, Any]]:
    """The rows of ``disturbed_stretches_query`` of a run whose number of cores the database knows."""
    return disturbed_stretches_query(run_id, _cores(con, run_id)).rows(con)


def machine_state(con: duckdb.DuckDBPyConnection, run_id: str, cores: int | None) -> dict[str, Any]:
    """Clocks, temperature and load during a run, and ``disturbances``: what visibly disturbed it, in words."""
    state = machine_query(run_id).rows(con)[0]
    disturbances = []
    host, own = state["host_cpu_percent"], state["cpu_percent"]
    if host is not None and own is not None and cores:
        others = others_cpu(host, own, cores)
        state["others_cpu_percent"] = others
        if others > OTHERS_CPU:
            disturbances.append(f"other processes used {others:.0f} % of the machine")
    low, high = state["lowest_clock_mhz"], state["highest_clock_mhz"]
    if state["gpu"] and low and high and low < (1 - CLOCK_DROP) * high:
        disturbances.append(f"the clock fell from {high} to {low} MHz")
    if (state["longest_silence_s"] or 0) > max(SILENCE_S, SILENCES * (state["usual_silence_s"] or 0)):
        disturbances.append(f"the process stood still for {state['longest_silence_s']:.0f} s")
    if (state["throttle_reasons"] or 0) & THROTTLED:
        disturbances.append("the device throttled itself")
    return state | {"disturbances": disturbances}


def machine_of(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any]:
    """``machine_state`` of a run whose number of cores the database knows."""
    return machine_state(con, run_id, _cores(con, run_id))


def _cores(con: duckdb.DuckDBPyConnection, run_id: str) -> int | None:
    about = Query("SELECT environment FROM runs WHERE run_id = $run", {"run": run_id}).one(con) or {}
    return cores_and_threads(json.loads(about.get("environment") or "{}"))[0]
