"""One active run in memory, for charts that move: fed by the collector, asked by the socket.

Frames are binary as ``docs/architecture.md`` describes them. Everything is numpy and append-only; no call walks the
whole history.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections import deque
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from store.capacity import Capacity, capacity_of
from store.history import History, LatencyHistogram
from store.limits import what_limits
from store.metrics import percentile
from store.queries import DEVICE_COLUMNS, ITERATION_COLUMNS
from store.schema import TABLES

REQUEST_COLUMNS = ("t", "ttft_ms", "tpot_ms", "e2e_ms", "request")
TOKEN_COLUMNS = ("t", "itl_ms", "request")
_JUDGED = ("flops", "bytes", "blocked")  # what the limit is judged from besides the columns the page gets

_FED = {
    "run": "*",
    "iteration": "*",
    "slice": "iteration, request, itl_ns",
    "request": "request, arrival_ns, first_token_ns, end_ns, output_tokens, end_reason",
    "device": "*",
}

RATE_WINDOW_S = 5.0
LATENCY_WINDOW_S = 10.0
TREND_POINTS = 60
TREND_INTERVAL_S = 0.5


class LiveRun:
    """A run's series since its start, thinned where they are old. Thread-safe."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._lock = threading.Lock()
        self._iterations = History(
            (*ITERATION_COLUMNS, *_JUDGED), "duration_ms", recent=16_384, old=16_384, counted="preempted"
        )
        self._tokens = History(TOKEN_COLUMNS, "itl_ms")
        self._requests = History(REQUEST_COLUMNS, "e2e_ms", recent=8_192, old=8_192)
        self._devices = History(tuple(DEVICE_COLUMNS), "t", recent=8_192, old=8_192)
        self._tables = {
            "iteration": (self._iterations, tuple(ITERATION_COLUMNS)),
            "token": (self._tokens, TOKEN_COLUMNS),
            "request": (self._requests, REQUEST_COLUMNS),
            "device": (self._devices, tuple(DEVICE_COLUMNS)),
        }
        self._itl, self._ttft = LatencyHistogram(), LatencyHistogram()
        self._ends: dict[int, float] = {}  # iteration -> when its tokens were known, while slices may still ask
        self._waiting_slices: list[np.ndarray] = []  # (iteration, itl_ms, request) of iterations not known yet
        self._peaks: dict[str, float] | None = None
        self._capacity: Capacity | None = None
        self._origin_unix_ns: int | None = None
        self._ended_s: float | None = None
        self._trend: dict[str, deque[float | None]] = {}
        self._trend_at = -float("inf")

    @classmethod
    def from_database(cls, con: duckdb.DuckDBPyConnection, run_id: str) -> LiveRun:
        """The run as the database has it; further batches may be fed to it."""
        live = cls(run_id)
        for row, names in _FED.items():
            # a plain scan gives rows in the order they were inserted, which is the order of time
            where = "run_id = $run AND itl_ns IS NOT NULL" if row == "slice" else "run_id = $run"
            query = f"SELECT {names} FROM {TABLES[row]} WHERE {where}"
            for batch in con.sql(query, params={"run": run_id}).to_arrow_reader(65_536):
                live.feed(row, batch)
        return live

    def feed(self, row: str, batch: pa.RecordBatch) -> None:
        """Take in a batch of rows as the spool has them; row types that no chart shows are ignored."""
        take = {
            "iteration": self._take_iterations,
            "slice": self._take_slices,
            "request": self._take_requests,
            "device": self._take_devices,
            "run": self._take_run,
        }.get(row)
        if take is not None:
            with self._lock:
                take(batch)

    @property
    def ended(self) -> bool:
        """Whether the engine has said that the run is over."""
        return self._ended_s is not None

    def frame_since(self, cursor: dict[str, int]) -> list[bytes]:
        """Binary frames with what each table has beyond ``cursor`` (table -> rows already sent), which is moved on."""
        frames = []
        with self._lock:
            for table, (history, names) in self._tables.items():
                first, rows = history.since(cursor.get(table, 0))
                cursor[table] = history.count
                if len(rows):
                    frames.append(encode_frame(table, first, names, rows[:, : len(names)]))
        return frames

    def figures(self) -> dict[str, Any]:
        """The key figures now. ``p50`` and ``p99`` are over the whole run (right to 0.5 %), ``recent`` over the last
        seconds.
        """
        with self._lock:
            now = self._now_s()
            itl = _window(self._tokens, now, LATENCY_WINDOW_S, "itl_ms")
            ttft = _window(self._requests, now, LATENCY_WINDOW_S, "ttft_ms")
            rate_span = min(RATE_WINDOW_S, now) or 1.0
            last = self._iterations.recent[-1:] if self._iterations.count else None
            figures: dict[str, Any] = {
                "t": now,
                "tokens_per_s": float(_window(self._iterations, now, rate_span, "emitted_tokens").sum()) / rate_span,
                "itl_ms": _latency(self._itl, itl),
                "ttft_ms": _latency(self._ttft, ttft),
                "running": self._last(last, "running"),
                "waiting": self._last(last, "waiting"),
                "kv_used_share": None,
                "capacity": None if self._capacity is None else self._capacity.as_dict(),
                "device": self._device(),
                "limit": self._limit(now),
            }
            total = self._last(last, "blocks_total")
            if total:
                figures["kv_used_share"] = (self._last(last, "blocks_used") or 0.0) / total
            figures["trend"] = self._trended(now, figures)
            return _plain(figures)

    # ------------------------------------------------------------------ taking rows in

    def _take_iterations(self, batch: pa.RecordBatch) -> None:
        def ms(name: str) -> np.ndarray:
            return _floats(batch, name) / 1e6

        ends, starts = _floats(batch, "end_ns"), _floats(batch, "start_ns")
        computed = {"t": ends / 1e9, "duration_ms": (ends - starts) / 1e6}
        for name in ("schedule", "prepare", "forward", "sample", "finish"):
            computed[f"{name}_ms"] = ms(f"{name}_ns")
        stops = batch.column("admission_stop").cast(pa.string())
        computed["blocked"] = pa.compute.equal(stops, "blocks").cast(pa.float64()).to_numpy(zero_copy_only=False)
        columns = [computed[n] if n in computed else _floats(batch, n) for n in self._iterations.names]
        self._iterations.append(np.column_stack(columns))
        self._ends.update(zip(batch.column("iteration").to_pylist(), computed["t"].tolist(), strict=True))
        while len(self._ends) > 65_536:
            del self._ends[next(iter(self._ends))]
        self._place_slices()

    def _take_slices(self, batch: pa.RecordBatch) -> None:
        rows = np.column_stack([_floats(batch, n) for n in ("iteration", "itl_ns", "request")])
        rows = rows[~np.isnan(rows[:, 1])]
        rows[:, 1] /= 1e6
        if len(rows):
            self._itl.add(rows[:, 1])
            self._waiting_slices.append(rows)
            self._place_slices()

    def _place_slices(self) -> None:
        """Give the slices whose iteration's end is known by now their time; the others go on waiting."""
        waiting, self._waiting_slices = self._waiting_slices, []
        for rows in waiting:
            numbers, where = np.unique(rows[:, 0].astype(np.int64), return_inverse=True)
            ends = np.array([self._ends.get(n, np.nan) for n in numbers.tolist()])
            placed = np.column_stack([ends[where], rows[:, 1], rows[:, 2]])
            known = ~np.isnan(placed[:, 0])
            self._tokens.append(placed[known])
            if not known.all():
                self._waiting_slices.append(rows[~known])

    def _take_requests(self, batch: pa.RecordBatch) -> None:
        end, arrival, first = (_floats(batch, n) for n in ("end_ns", "arrival_ns", "first_token_ns"))
        tokens = _floats(batch, "output_tokens")
        reasons = batch.column("end_reason").cast(pa.string()).to_pylist()
        completed = np.array([reason in ("stop", "length", "stop_string") for reason in reasons])
        ttft = (first - arrival) / 1e6
        tpot = np.where(completed & (tokens > 1), (end - first) / 1e6 / np.maximum(tokens - 1, 1), np.nan)
        e2e = np.where(completed, (end - arrival) / 1e6, np.nan)
        self._ttft.add(ttft[~np.isnan(ttft)])
        self._requests.append(np.column_stack([end / 1e9, ttft, tpot, e2e, _floats(batch, "request")]))

    def _take_devices(self, batch: pa.RecordBatch) -> None:
        columns = [_floats(batch, "time_ns") / 1e9 if n == "t" else _floats(batch, n) for n in self._devices.names]
        self._devices.append(np.column_stack(columns))

    def _take_run(self, batch: pa.RecordBatch) -> None:
        for event in batch.to_pylist():
            if event["event"] == "start":
                self._origin_unix_ns = event["unix_ns"] - event["time_ns"]
            else:
                self._ended_s = event["time_ns"] / 1e9
            if event["peaks"]:
                self._peaks = json.loads(event["peaks"])
            if event["model"]:
                self._capacity = capacity_of(json.loads(event["model"]))

    # ------------------------------------------------------------------ figures

    def _now_s(self) -> float:
        """The run's clock: of its last row, or of the wall where the run is under way and nothing came for a while."""
        last = float(self._iterations.column("t")[-1]) if self._iterations.count else 0.0
        if self._ended_s is not None or self._origin_unix_ns is None:
            return last
        wall = (time.time_ns() - self._origin_unix_ns) / 1e9
        return wall if wall > last + 1.0 else last

    def _device(self) -> dict[str, float | None]:
        if not self._devices.count:
            return {}
        return dict(zip(self._devices.names, map(float, self._devices.recent[-1]), strict=True))

    def _last(self, row: np.ndarray | None, name: str) -> float | None:
        return None if row is None else float(row[0, self._iterations.names.index(name)])

    def _limit(self, now: float) -> dict[str, Any] | None:
        """None before the first iteration: a run that waits or loads is not one with too little work."""
        if not self._iterations.count:
            return None
        start = int(np.searchsorted(self._iterations.column("t"), now - RATE_WINDOW_S, side="right"))
        names = ("duration_ms", "forward_ms", "flops", "bytes", "waiting", "preempted", "blocked")
        columns = {name: self._iterations.column(name)[start:] for name in names}
        return what_limits(columns, self._peaks, min(RATE_WINDOW_S, now)).as_dict()

    def _trended(self, now: float, figures: dict[str, Any]) -> dict[str, list[float | None]]:
        """The last points of what the key figures show, one per half second of the run."""
        if now >= self._trend_at + TREND_INTERVAL_S:
            self._trend_at = now
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
                self._trend.setdefault(name, deque(maxlen=TREND_POINTS)).append(value)
        return {name: list(values) for name, values in self._trend.items()}


def encode_frame(table: str, first: int, names: tuple[str, ...], rows: np.ndarray) -> bytes:
    """One binary frame: header length, JSON header, then each column as float64, little-endian."""
    header = json.dumps({"table": table, "n": len(rows), "first": first, "columns": names}).encode()
    header += b" " * (-(4 + len(header)) % 8)  # so that the columns can be read in place
    return struct.pack("<I", len(header)) + header + np.ascontiguousarray(rows.T, "<f8").tobytes()


def _floats(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)


def _window(history: History, now: float, seconds: float, name: str) -> np.ndarray:
    """A column's values in the last ``seconds``, nulls left out. Rows are in time order, nearly: a few may be missed
    at the edge.
    """
    start = int(np.searchsorted(history.column("t"), now - seconds, side="right"))
    values = history.column(name)[start:]
    return values[~np.isnan(values)]


def _latency(whole: LatencyHistogram, recent: np.ndarray) -> dict[str, Any]:
    return {
        "p50": whole.percentile(0.5),
        "p99": whole.percentile(0.99),
        "recent": {"p50": percentile(recent, 0.5), "p99": percentile(recent, 0.99)},
    }


def _plain(value: Any) -> Any:
    """The same with NaN as None, so that it is JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and value != value else value
