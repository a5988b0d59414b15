"""One active run in memory, for charts that move: fed by the collector, asked by the socket.

Frames are binary as ``docs/architecture.md`` describes them. Everything is numpy and append-only; no call walks the
whole history.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from store.figures import Trend, latency, plain, window
from store.history import History, LatencyHistogram
from store.in_flight import InFlight, OpenRequest
from store.limits import Outside, Work, is_gpu, what_limits
from store.metrics import STALL_MS, request_latencies, too_few, ttft_ms
from store.pool_room import PoolRoom, pool_room_of
from store.queries import DEVICE_COLUMNS, ITERATION_COLUMNS
from store.schema import TABLES
from store.step_ends import StepEnds
from telemetry.run_facts import facts_of

REQUEST_COLUMNS = ("t", "ttft_ms", "tpot_ms", "e2e_ms", "request")
TOKEN_COLUMNS = ("t", "itl_ms", "request")
FIRST_TOKEN_COLUMNS = ("t", "ttft_ms")
_JUDGED = ("flops", "bytes", "blocked", "launched")  # what the limit is judged from besides the columns the page gets

_FED = {
    "run": "*",
    "iteration": "*",
    "slice": "iteration, request, itl_ns",
    "request": "request, arrival_ns, first_token_ns, end_ns, output_tokens, end_reason",
    "device": "*",
}

RATE_WINDOW_S = 5.0
LATENCY_WINDOW_S = 10.0
SILENT_S = 1.0  # without news, after which time goes on all the same


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
        self._first_tokens = History(FIRST_TOKEN_COLUMNS, "ttft_ms", recent=8_192, old=1)
        self._itl, self._ttft = LatencyHistogram(), LatencyHistogram()
        self._ttfts: dict[int, float] = {}  # ms by request that has got its first token
        self._over: set[int] = set()  # requests that have ended
        self._stalls = 0
        self._ends = StepEnds()  # when a step's tokens were known
        self._waiting_slices: list[np.ndarray] = []  # (iteration, itl_ms, request) of iterations not known yet
        self._peaks: dict[str, float] | None = None
        self._capacity: PoolRoom | None = None
        self._environment: dict[str, Any] = {}
        self._heard_s, self._heard_at = 0.0, time.monotonic()  # the run's clock as last heard, and when that was
        self._ended_s: float | None = None
        self._trend = Trend()

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
        return self.frames_since([cursor])[0]

    def frames_since(self, cursors: Sequence[dict[str, int]]) -> list[list[bytes]]:
        """``frame_since`` of each cursor, all to the same rows; what begins at the same row is encoded once."""
        frames: list[list[bytes]] = [[] for _ in cursors]
        with self._lock:
            for table, (history, names) in self._tables.items():
                encoded: dict[int, bytes | None] = {}
                for cursor, sent in zip(cursors, frames, strict=True):
                    since = cursor.get(table, 0)
                    if since not in encoded:
                        first, rows = history.since(since)
                        encoded[since] = encode_frame(table, first, names, rows[:, : len(names)]) if len(rows) else None
                    if (frame := encoded[since]) is not None:
                        sent.append(frame)
                    cursor[table] = history.count
        return frames

    @property
    def first_token_latencies_ms(self) -> np.ndarray:
        """TTFT of every request that has got its first token, ended or not."""
        with self._lock:
            return np.fromiter(self._ttfts.values(), np.float64)

    def figures(self, in_flight: InFlight | None = None) -> dict[str, Any]:
        """The key figures now, what is in flight included. ``p50``, ``p99`` and ``max`` are over the whole run (percentiles
        right to 0.5 %), ``recent`` over the last seconds.

        A wait that is not over (a gap since the last token, a first token that has not come) counts with its length so far once
        it is longer than the median: it can only move what lies above.
        """
        with self._lock:
            if self._ended_s is not None:
                in_flight = None
            open_requests = self._observe(in_flight)
            now = self._now_s(in_flight)
            last = self._iterations.recent[-1:] if self._iterations.count else None
            if in_flight is not None and in_flight.at_ns / 1e9 < self._last_end_s():
                in_flight = None  # rows have come since
            at_ms = 0.0 if in_flight is None else in_flight.at_ns / 1e6
            waits = np.array([at_ms - r.arrival_ns / 1e6 for r in open_requests if r.first_token_ns is None])
            gaps = np.array([at_ms - r.last_token_ns / 1e6 for r in open_requests if r.last_token_ns is not None])
            if in_flight is None:
                waits = gaps = np.zeros(0)
            itl = window(self._tokens, now, LATENCY_WINDOW_S, "itl_ms")
            ttft = window(self._first_tokens, now, LATENCY_WINDOW_S, "ttft_ms")
            rate_span = min(RATE_WINDOW_S, now) or 1.0
            figures: dict[str, Any] = {
                "t": now,
                "final": False,
                "tokens_per_s": float(window(self._iterations, now, rate_span, "emitted_tokens").sum()) / rate_span,
                "itl_ms": latency(self._itl, itl, gaps),
                "ttft_ms": latency(self._ttft, ttft, waits),
                "stalls": self._stalls + int((gaps > STALL_MS).sum()),
                "running": self._last(last, "running") if in_flight is None else in_flight.running,
                "waiting": self._last(last, "waiting") if in_flight is None else in_flight.waiting,
                "kv_used_share": None,
                "capacity": None if self._capacity is None else self._capacity.as_dict(),
                "device": self._device(),
                "limit": self._limit(now, in_flight),
            }
            total = self._last(last, "blocks_total")
            if total:
                figures["kv_used_share"] = (self._last(last, "blocks_used") or 0.0) / total
            figures["too_few"] = {name: too_few(figures[name]["count"]) for name in ("itl_ms", "ttft_ms")}
            figures["trend"] = self._trend.with_also(now, figures)
            return plain(figures)

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
        computed["launched"] = np.full(batch.num_rows, float(is_gpu(self._environment)))
        computed["launched"] *= pa.compute.is_null(batch.column("graph_size")).to_numpy(zero_copy_only=False)
        columns = [computed[n] if n in computed else _floats(batch, n) for n in self._iterations.names]
        self._iterations.append(np.column_stack(columns))
        self._ends.add(batch.column("iteration").to_numpy(), computed["t"])
        self._place_slices()

    def _take_slices(self, batch: pa.RecordBatch) -> None:
        rows = np.column_stack([_floats(batch, n) for n in ("iteration", "itl_ns", "request")])
        rows = rows[~np.isnan(rows[:, 1])]
        rows[:, 1] /= 1e6
        if len(rows):
            self._itl.add(rows[:, 1])
            self._stalls += int((rows[:, 1] > STALL_MS).sum())
            self._waiting_slices.append(rows)
            self._place_slices()

    def _place_slices(self) -> None:
        """Give the slices whose iteration's end is known by now their time; those of later iterations go on waiting. Steps
        are read in their order, so one that is neither known nor to come was lost, and its tokens with it."""
        waiting, self._waiting_slices = self._waiting_slices, []
        for rows in waiting:
            ends = self._ends.of(rows[:, 0].astype(np.int64))
            known = ~np.isnan(ends)
            self._tokens.append(np.column_stack([ends, rows[:, 1], rows[:, 2]])[known])
            later = rows[:, 0] > self._ends.last
            if later.any():
                self._waiting_slices.append(rows[later])

    def _take_requests(self, batch: pa.RecordBatch) -> None:
        names = ("request", "arrival_ns", "first_token_ns", "end_ns", "output_tokens")
        columns = {name: _floats(batch, name) for name in names}
        latencies = request_latencies(columns, batch.column("end_reason").cast(pa.string()).to_pylist())
        latencies |= {"t": columns["end_ns"] / 1e9, "request": columns["request"]}
        self._over.update(columns["request"].astype(np.int64).tolist())
        self._take_first_tokens(columns["request"], columns["first_token_ns"], latencies["ttft_ms"])
        self._requests.append(np.column_stack([latencies[name] for name in REQUEST_COLUMNS]))

    def _take_first_tokens(self, numbers: np.ndarray, first_ns: np.ndarray, ttft_ms: np.ndarray) -> None:
        """First tokens of requests; those known already, and nulls, are left out."""
        new = [k for k, number in enumerate(numbers.tolist()) if ttft_ms[k] == ttft_ms[k] and number not in self._ttfts]
        if new:
            new.sort(key=lambda k: float(first_ns[k]))
            self._ttfts.update((int(numbers[k]), float(ttft_ms[k])) for k in new)
            self._ttft.add(ttft_ms[new])
            self._first_tokens.append(np.column_stack([first_ns[new] / 1e9, ttft_ms[new]]))

    def _take_devices(self, batch: pa.RecordBatch) -> None:
        columns = [_floats(batch, "time_ns") / 1e9 if n == "t" else _floats(batch, n) for n in self._devices.names]
        self._devices.append(np.column_stack(columns))

    def _take_run(self, batch: pa.RecordBatch) -> None:
        for event in batch.to_pylist():
            if event["event"] != "start":
                self._ended_s = event["time_ns"] / 1e9
            said, _ = facts_of(event)
            self._peaks = said.get("peaks", self._peaks)
            if "model" in said:
                self._capacity = pool_room_of(said["model"])
            self._environment = said.get("environment", self._environment)

    # ------------------------------------------------------------------ figures

    def _observe(self, in_flight: InFlight | None) -> list[OpenRequest]:
        """Take in first tokens of requests that have not ended; returns those requests."""
        if in_flight is None:
            return []
        still = [request for request in in_flight.requests if request.request not in self._over]
        begun = [r for r in still if r.first_token_ns is not None]
        if begun:
            first = np.array([r.first_token_ns for r in begun], np.float64)
            arrival = np.array([r.arrival_ns for r in begun], np.float64)
            self._take_first_tokens(np.array([r.request for r in begun]), first, ttft_ms(arrival, first))
        return still

    def _last_end_s(self) -> float:
        return float(self._iterations.column("t")[-1]) if self._iterations.count else 0.0

    def _is_next(self, in_flight: InFlight | None) -> bool:
        """Whether every step that had ended at that moment is here: what is in flight then follows what is known."""
        known = float(self._iterations.column("iteration")[-1]) + 1 if self._iterations.count else 0
        return in_flight is not None and in_flight.iterations == known

    def _now_s(self, in_flight: InFlight | None) -> float:
        """The run's clock: of the last that is known of it, or further on where a run under way has been silent for a while."""
        last = self._last_end_s()
        if self._ended_s is not None:
            return last
        if in_flight is not None and self._is_next(in_flight) and in_flight.at_ns / 1e9 > last:
            last = in_flight.at_ns / 1e9
        if last > self._heard_s:
            self._heard_s, self._heard_at = last, time.monotonic()
        silent = time.monotonic() - self._heard_at
        return last + silent if silent > SILENT_S else last

    def _device(self) -> dict[str, float | None]:
        if not self._devices.count:
            return {}
        return dict(zip(self._devices.names, map(float, self._devices.recent[-1]), strict=True))

    def _last(self, row: np.ndarray | None, name: str) -> float | None:
        return None if row is None else float(row[0, self._iterations.names.index(name)])

    def _limit(self, now: float, in_flight: InFlight | None) -> dict[str, Any] | None:
        """None before the first iteration has begun: a run that waits or loads is not one with too little work."""
        step = in_flight.step if in_flight is not None and self._is_next(in_flight) else None
        if not self._iterations.count and step is None:
            return None
        stretch = min(RATE_WINDOW_S, now)
        start = int(np.searchsorted(self._iterations.column("t"), now - RATE_WINDOW_S, side="right"))
        names = ("duration_ms", "forward_ms", "flops", "bytes", "waiting", "preempted", "blocked", "launched")
        work = Work.of({name: self._iterations.column(name)[start:] for name in names}, self._peaks)
        taken_ms = 0.0 if step is None else 1e3 * min(stretch, now - step.start_ns / 1e9)
        return what_limits(
            work, 1e3 * stretch, step=step, running_ms=taken_ms, peaks=self._peaks, outside=self._outside(now)
        ).as_dict()

    def _outside(self, now: float) -> Outside | None:
        """What other processes did in the last seconds; None where nobody counted."""
        counted = [window(self._devices, now, RATE_WINDOW_S, n) for n in ("host_cpu_percent", "cpu_percent")]
        host, own = (float(values.mean()) if len(values) else None for values in counted)
        return Outside.of(host, own, self._environment)


def encode_frame(table: str, first: int, names: tuple[str, ...], rows: np.ndarray) -> bytes:
    """One binary frame: header length, JSON header, then each column as float64, little-endian."""
    header = json.dumps({"table": table, "n": len(rows), "first": first, "columns": names}).encode()
    header += b" " * (-(4 + len(header)) % 8)  # so that the columns can be read in place
    return struct.pack("<I", len(header)) + header + np.ascontiguousarray(rows.T, "<f8").tobytes()


def _floats(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
