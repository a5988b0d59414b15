"""The engine's way of saying what it did, cheap enough not to disturb what it measures.

The engine thread fills preallocated numpy columns and does no I/O. A writer thread empties them every
``DRAIN_INTERVAL_S`` (sooner when a chunk is full) and appends Arrow batches to the spool. When the disk cannot keep
up, or refuses, the engine never waits and nothing vanishes in silence: rows wait in memory up to
``max_pending_bytes``, then detail rows (slice, decision, block) stop, at twice that iteration and device rows too,
and :attr:`Recorder.problem` says so with the number of rows that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from telemetry.buffers import NumericBuffer, ObjectBuffer
from telemetry.clock import RunClock
from telemetry.folder import TELEMETRY_FOLDER
from telemetry.rows import IterationRow, columns
from telemetry.writer import Writer

Level = Literal["full", "iterations", "off"]
Ints = Sequence[int] | np.ndarray | int

DRAIN_INTERVAL_S = 0.15
MAX_PENDING_BYTES = 256 << 20
LABEL_INCOMPLETE = "telemetry incomplete"

DETAIL_ROWS = ("decision", "slice", "block")


class Recorder:
    """Writes one run's rows to ``run_dir/telemetry``. Use as a context manager or call :meth:`close`.

    One thread (the engine's) may call the row methods; ``device`` may be called from one other.

    ``detail`` and ``iterations`` say whether slice, decision and block rows, and iteration rows, are wanted at the
    moment, so that the engine can skip building what nobody records.
    """

    def __init__(
        self,
        run_dir: Path,
        level: Level = "full",
        clock: RunClock | None = None,
        *,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        drain_interval_s: float = DRAIN_INTERVAL_S,
    ) -> None:
        """Raises OSError where the run's folder cannot be made."""
        self.run_dir = Path(run_dir)
        self.level = level
        self.clock = clock or RunClock()
        self.detail = level == "full"
        self.iterations = level != "off"
        self.lost: dict[str, int] = {}
        self._max_pending_bytes = max_pending_bytes
        self._drain_interval_s = drain_interval_s
        self._iteration = NumericBuffer("iteration", by_row=True)
        self._decision = NumericBuffer("decision", by_row=True)
        self._swap = NumericBuffer("swap", by_row=True)
        self._layout = NumericBuffer("layout", by_row=True)
        self._handover = NumericBuffer("handover", by_row=True)
        self._tier = NumericBuffer("tier", by_row=True)
        self._pin = NumericBuffer("pin", by_row=True)
        self._far = NumericBuffer("far", by_row=True)
        self._lending = NumericBuffer("lending", by_row=True)
        self._slice = NumericBuffer("slice", by_row=False)
        self._block = NumericBuffer("block", by_row=False)
        self._request, self._device, self._run_row = (ObjectBuffer(row) for row in ("request", "device", "run"))
        self._foreign = ObjectBuffer("foreign")
        # in the order of writing: where space is short, what a run cannot be read without comes first
        self._buffers: dict[str, NumericBuffer | ObjectBuffer] = {
            "run": self._run_row,
            "request": self._request,
            "iteration": self._iteration,
            "device": self._device,
            "foreign": self._foreign,
            "swap": self._swap,
            "layout": self._layout,
            "handover": self._handover,
            "tier": self._tier,
            "pin": self._pin,
            "far": self._far,
            "lending": self._lending,
            "decision": self._decision,
            "slice": self._slice,
            "block": self._block,
        }
        self._in_order = itemgetter(*self._iteration.names)
        self._unset = {name: None for name, c in columns(IterationRow).items() if c.nullable}
        self._reason: str | None = None
        (self.run_dir / TELEMETRY_FOLDER).mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self.run_dir, self._buffers, drain_interval_s, self._stop_detail, self._refuse)

    # ------------------------------------------------------------------ hot path

    def iteration(self, **values: Any) -> None:
        """One engine step; keywords are the columns of ``IterationRow`` (nullable ones may be left out or None)."""
        if not self.iterations:
            self._refuse("iteration", 1)
            return
        merged = self._unset | values
        try:
            row = self._in_order(merged)
        except KeyError as error:
            raise TypeError(f"iteration row: column {error.args[0]!r} is never null; give it a value") from None
        if len(merged) != len(row):
            unknown = sorted(merged.keys() - set(self._iteration.names))
            raise TypeError(f"iteration row: no column {unknown[0]!r}")
        if self._iteration.append(row):
            self._check_bounds()

    def slices(
        self,
        iteration: int,
        *,
        request: Ints,
        kind: Sequence[int] | Sequence[str] | np.ndarray | int | str,
        tokens: Ints,
        context_len: Ints,
        drafted: Ints = 0,
        accepted: Ints = 0,
        emitted: Ints = 0,
        itl_ns: Sequence[int | None] | np.ndarray | int | None = None,
    ) -> None:
        """The whole batch of one step: sequences of one length (numpy arrays are cheapest) or scalars for every
        row."""
        rows = 1 if isinstance(request, int) else len(request)
        if not self.detail:
            self._refuse("slice", rows)
        elif rows and self._slice.extend(
            rows, (iteration, request, kind, tokens, context_len, drafted, accepted, emitted, itl_ns)
        ):
            self._check_bounds()

    def decision(
        self,
        iteration: int,
        action: str | int,
        reason: str | int,
        *,
        request: int | None = None,
        tokens: int | None = None,
        tokens_left: int | None = None,
        blocks_needed: int | None = None,
        blocks_free: int | None = None,
        value: float | None = None,
        time_ns: int | None = None,
    ) -> None:
        """Something the scheduler did that is worth explaining. ``time_ns`` defaults to now."""
        if not self.detail:
            self._refuse("decision", 1)
            return
        when = self.clock.now_ns() if time_ns is None else time_ns
        row = (iteration, when, request, action, reason, tokens, tokens_left, blocks_needed, blocks_free, value)
        if self._decision.append(row):
            self._check_bounds()

    def swap(self, **values: Any) -> None:
        """Copies between the KV pool and host memory that have landed; keywords are the columns of ``SwapRow``."""
        if not self.iterations:
            self._refuse("swap", 1)
        elif self._swap.append([values[name] for name in self._swap.names]):
            self._check_bounds()

    def handover(self, **values: Any) -> None:
        """A request handed from prefill to decode; keywords are the columns of ``HandoverRow``."""
        if not self.iterations:
            self._refuse("handover", 1)
        elif self._handover.append([values[name] for name in self._handover.names]):
            self._check_bounds()

    def layout(self, **values: Any) -> None:
        """What the KV pool's memory was used for after a step; keywords are the columns of ``LayoutRow``."""
        if not self.iterations:
            self._refuse("layout", 1)
        elif self._layout.append([values[name] for name in self._layout.names]):
            self._check_bounds()

    def tier(self, **values: Any) -> None:
        """What was done with blocks of a tier in a step; keywords are the columns of ``TierRow``."""
        if not self.iterations:
            self._refuse("tier", 1)
        elif self._tier.append([values[name] for name in self._tier.names]):
            self._check_bounds()

    def pin(self, **values: Any) -> None:
        """What became of the blocks of an ended turn; keywords are the columns of ``PinRow``."""
        if not self.iterations:
            self._refuse("pin", 1)
        elif self._pin.append([values[name] for name in self._pin.names]):
            self._check_bounds()

    def far(self, **values: Any) -> None:
        """What lay in the far pool in a step; keywords are the columns of ``FarRow``."""
        if not self.iterations:
            self._refuse("far", 1)
        elif self._far.append([values[name] for name in self._far.names]):
            self._check_bounds()

    def lending(self, **values: Any) -> None:
        """Blocks that went to the far pool, or were given back; keywords are the columns of ``LendingRow``."""
        if not self.iterations:
            self._refuse("lending", 1)
        elif self._lending.append([values[name] for name in self._lending.names]):
            self._check_bounds()

    def block(
        self,
        iteration: int,
        block: int,
        event: str | int,
        *,
        request: int | None = None,
        position: int | None = None,
        ref_count: int = 0,
        block_hash: int | None = None,
        time_ns: int | None = None,
    ) -> None:
        """A change of one KV block. ``time_ns`` defaults to now."""
        self.blocks(
            iteration,
            block=(block,),
            event=event,
            request=request,
            position=position,
            ref_count=ref_count,
            block_hash=block_hash,
            time_ns=time_ns,
        )

    def blocks(
        self,
        iteration: int,
        *,
        block: Sequence[int] | np.ndarray,
        event: Sequence[int] | Sequence[str] | np.ndarray | int | str,
        request: Sequence[int | None] | np.ndarray | int | None = None,
        position: Sequence[int | None] | np.ndarray | int | None = None,
        ref_count: Ints = 0,
        block_hash: Sequence[int | None] | np.ndarray | int | None = None,
        time_ns: int | None = None,
    ) -> None:
        """Several changes at once, in the order they happened: sequences of one length, or scalars for every row."""
        rows = len(block)
        if not self.detail:
            self._refuse("block", rows)
            return
        when = self.clock.now_ns() if time_ns is None else time_ns
        if rows and self._block.extend(rows, (iteration, when, block, event, request, position, ref_count, block_hash)):
            self._check_bounds()

    # ------------------------------------------------------------------ rows with text

    def request(self, **values: Any) -> None:
        """A request that ended; keywords are the columns of ``RequestRow``."""
        self._request.append(values)

    def device(self, **values: Any) -> None:
        """A sample of the machine's counters; keywords are the columns of ``DeviceRow``."""
        if self.iterations or self.level == "off":
            self._device.append(values)
            self._check_bounds(wake=False)
        else:
            self._refuse("device", 1)

    def foreign(self, **values: Any) -> None:
        """A figure of another engine; keywords are the columns of ``ForeignRow``."""
        self._foreign.append(values)
        self._check_bounds(wake=False)

    def run(self, event: str, status: str, *, labels: Sequence[str] = (), **values: Any) -> None:
        """The run's start or end. JSON columns take objects or text; ``time_ns`` and ``unix_ns`` default to now.

        A run whose telemetry has holes gets the label ``telemetry incomplete`` here.
        """
        now = self.clock.now_ns()
        values = {"time_ns": now, "unix_ns": self.clock.unix_ns(now)} | values
        self._run_row.append(
            {"event": event, "status": status, "labels": [*labels, *self.labels], **values},
        )
        self._writer.wake()

    # ------------------------------------------------------------------ state

    @property
    def problem(self) -> str | None:
        """What is missing from this run's telemetry, and why; None while it is complete."""
        if self._reason is None:
            return None
        missing = ", ".join(f"{count:,} {row}" for row, count in sorted(self.lost.items()) if count)
        return f"{self._reason}; rows not recorded: {missing}" if missing else self._reason

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels the recorder puts on the run."""
        return (LABEL_INCOMPLETE,) if self._reason is not None else ()

    @property
    def pending_bytes(self) -> int:
        """Memory held by rows that are not in the spool yet."""
        return sum(buffer.pending_bytes for buffer in self._buffers.values())

    def flush(self) -> None:
        """Write everything recorded so far, from the calling thread. Not for the hot path."""
        self._writer.flush()

    def close(self) -> None:
        """Write everything, end the streams, force them to disk. Never raises for the disk's sake: see ``problem``."""
        self._writer.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ bounds

    def _check_bounds(self, wake: bool = True) -> None:
        if wake:
            self._writer.wake()
        pending = self.pending_bytes
        if pending > self._max_pending_bytes:
            self._stop_detail(f"the disk did not keep up: {pending >> 20} MiB of rows were waiting")
        if pending > 2 * self._max_pending_bytes:
            self.iterations = False

    def _stop_detail(self, reason: str) -> None:
        self.detail = False
        self._reason = self._reason or reason

    def _refuse(self, row: str, rows: int) -> None:
        if self._reason is not None:
            self.lost[row] = self.lost.get(row, 0) + rows
