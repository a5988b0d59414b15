"""When what limited the engine, of a run that is over: its time in a few stretches, each with its own verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import duckdb

from store.limits import Kind, Outside, Peaks, Work, is_gpu, what_limits, work_query
from store.query import Query

MOST = 6
LEAST_S = 1.0  # a verdict on less is about single iterations
NAMES: dict[Kind, str] = {
    "memory_bandwidth": "memory bandwidth",
    "compute": "compute",
    "kv_capacity": "KV capacity",
    "host_overhead": "overhead",
    "other_processes": "other processes",
    "no_work": "too little work",
}


class Stretch(NamedTuple):
    """A stretch of the run's time (s since its start) and what limited the engine in it."""

    from_s: float
    to_s: float
    kind: Kind


def stretches(
    con: duckdb.DuckDBPyConnection,
    run_id: str,
    peaks: Peaks | None,
    environment: Mapping[str, Any],
    start_s: float,
    end_s: float,
) -> list[Stretch]:
    """The stretches between the first iteration's start and the last one's end; neighbours with one verdict are one.

    A stretch ends with an iteration, so that time without one belongs to what comes after it.
    """
    found: list[Stretch] = []
    at = start_s
    width_s = max(LEAST_S, (end_s - start_s) / MOST)
    for row in work_query(run_id, peaks, width_s, gpu=is_gpu(environment)).rows(con):
        _, until = row.pop("start_s"), row.pop("end_s")
        outside = _outside(con, run_id, environment, at, until)
        kind = what_limits(Work(**row), 1e3 * (until - at), peaks=peaks, outside=outside).kind
        if found and found[-1].kind == kind:
            found[-1] = found[-1]._replace(to_s=until)
        else:
            found.append(Stretch(at, until, kind))
        at = until
    return found


def stretches_in_words(parts: Sequence[Stretch]) -> str:
    """``0.2 to 4.1 s: compute; 4.1 to 9.0 s: memory bandwidth.``"""
    told = "; ".join(f"{part.from_s:.1f} to {part.to_s:.1f} s: {NAMES[part.kind]}" for part in parts)
    return f"{told}." if told else ""


def _outside(
    con: duckdb.DuckDBPyConnection, run_id: str, environment: Mapping[str, Any], from_s: float, to_s: float
) -> Outside | None:
    load = Query(
        """
SELECT avg(host_cpu_percent) AS host, avg(cpu_percent) AS own FROM devices
WHERE run_id = $run AND time_ns BETWEEN $from::BIGINT AND $to::BIGINT""".strip(),
        {"run": run_id, "from": round(1e9 * from_s), "to": round(1e9 * to_s)},
    ).rows(con)[0]
    return Outside.of(load["host"], load["own"], environment)
