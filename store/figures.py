"""The key figures of a run, in the form the live socket sends them: of one that goes on from its series, of one that is over from the database.

A run that is over has one set of figures, its summary's, wherever they are shown.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np

from store.history import History, LatencyHistogram
from store.limits import Outside, Work, is_gpu, what_limits, work_query
from store.metrics import percentile, too_few
from store.pool_room import pool_room
from store.query import Query
from store.stretches import stretches, stretches_in_words
from store.summary import stored_summary

TREND_POINTS = 60
TREND_INTERVAL_S = 0.5


class Trend:
    """The last points of what the key figures show, one per half second of the run."""

    def __init__(self) -> None:
        self._points: dict[str, deque[float | None]] = {}
        self._at = -float("inf")

    def with_also(self, now: float, figures: Mapping[str, Any]) -> dict[str, list[float | None]]:
        """The points by figure, oldest first, after those of ``now``."""
        if now >= self._at + TREND_INTERVAL_S:
            self._at = now
            device = figures["device"]
            points = {
                "t": now,
                "tokens_per_s": figures["tokens_per_s"],
                "ttft_p50": figures["ttft_ms"]["recent"]["p50"],
                "ttft_p99": figures["ttft_ms"]["recent"]["p99"],
                "itl_p50": figures["itl_ms"]["recent"]["p50"],
                "itl_p99": figures["itl_ms"]["recent"]["p99"],
                **{name: figures[name] for name in ("running", "waiting", "kv_used_share")},
                **{name: device.get(name) for name in ("utilization", "memory_used", "power", "cpu_percent")},
            }
            for name, value in points.items():
                self._points.setdefault(name, deque(maxlen=TREND_POINTS)).append(value)
        return {name: list(values) for name, values in self._points.items()}


def window(history: History, now: float, seconds: float, name: str) -> np.ndarray:
    """A column's values in the last ``seconds``, nulls left out. Rows are in time order, nearly: a few may be missed
    at the edge.
    """
    start = int(np.searchsorted(history.column("t"), now - seconds, side="right"))
    values = history.column(name)[start:]
    return values[~np.isnan(values)]


def latency(whole: LatencyHistogram, recent: np.ndarray, waits: np.ndarray) -> dict[str, Any]:
    """``waits``: that are not over; each counts once it is longer than the median of those that are."""
    median, median_now = whole.percentile(0.5), percentile(recent, 0.5)
    both = whole.with_also(waits[waits > (median or 0.0)])
    now = np.concatenate([recent, waits[waits > (median_now or 0.0)]])
    return {
        "count": both.count,
        "p50": both.percentile(0.5),
        "p99": both.percentile(0.99),
        "max": both.most if both.count else None,
        "recent": {"p50": percentile(now, 0.5), "p99": percentile(now, 0.99)},
    }


def final_figures(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any] | None:
    """The figures of a run that is over: its summary's, what the device did on average, what limited it over the whole run.

    None while its last rows are still on their way.
    """
    summary = stored_summary(con, run_id)
    if summary is None:
        return None
    about = Query("SELECT peaks, environment FROM runs WHERE run_id = $run", {"run": run_id}).rows(con)[0]
    pool = Query(
        "SELECT max(end_ns) / 1e9 AS t, max(blocks_used / nullif(blocks_total, 0)) AS share FROM iterations WHERE run_id = $run",
        {"run": run_id},
    ).rows(con)[0]
    held, device = pool_room(con, run_id), _device(con, run_id)
    return plain(
        {
            "t": pool["t"] or 0.0,
            "final": True,
            "tokens_per_s": summary["output_tokens_per_s"],
            "itl_ms": summary["itl_ms"],
            "ttft_ms": summary["ttft_ms"],
            "stalls": summary["stalls"],
            "too_few": {name: too_few(summary[name]["count"] or 0) for name in ("itl_ms", "ttft_ms")},
            "requests": summary["requests"],
            "running": 0,
            "waiting": 0,
            "kv_used_share": pool["share"],
            "capacity": None if held is None else held.as_dict(),
            "device": device,
            "limit": _limit(con, run_id, device, _loads(about["peaks"]), _loads(about["environment"])),
        }
    )


def _device(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, float | None]:
    """Means over the run, of memory the most."""
    return Query(
        """
SELECT max(time_ns) / 1e9 AS t, avg(utilization) AS utilization, max(memory_used)::DOUBLE AS memory_used, avg(power) AS power,
       avg(temperature) AS temperature, avg(cpu_percent) AS cpu_percent, avg(host_cpu_percent) AS host_cpu_percent
FROM devices WHERE run_id = $run""".strip(),
        {"run": run_id},
    ).rows(con)[0]


def _limit(
    con: duckdb.DuckDBPyConnection,
    run_id: str,
    device: dict[str, float | None],
    peaks: dict[str, Any],
    environment: dict[str, Any],
) -> dict[str, Any] | None:
    work = work_query(run_id, peaks, gpu=is_gpu(environment)).rows(con)[0]
    if not work["steps"]:
        return None
    start_s, end_s = work.pop("start_s"), work.pop("end_s")
    outside = Outside.of(device["host_cpu_percent"], device["cpu_percent"], environment)
    limit = what_limits(Work(**work), 1e3 * (end_s - start_s), peaks=peaks, outside=outside)
    parts = stretches(con, run_id, peaks, environment, start_s, end_s)
    said = {"sentence": f"{limit.sentence} {stretches_in_words(parts)}".rstrip()}
    return limit.as_dict() | said | {"stretches": [part._asdict() for part in parts]}


def _loads(text: str | None) -> dict[str, Any]:
    value = json.loads(text) if text else None
    return value if isinstance(value, dict) else {}


def plain(value: Any) -> Any:
    """The same with NaN as None, so that it is JSON."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and value != value else value
