"""The thread between a recorder's buffers and the spool. It may be late or refused; it never makes the engine wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from telemetry import arrow
from telemetry.buffers import NumericBuffer, ObjectBuffer
from telemetry.spool import SpoolWriter, spool_path

RETRY_INTERVAL_S = 1.0
# not looked at while a run goes on
UNHURRIED = frozenset({"decision", "block", "swap", "layout", "handover", "tier", "pin", "far", "lending"})
UNHURRIED_EVERY = 4  # intervals: writing a row type costs about the same for one row and for many


class Writer:
    """Empties ``buffers`` every ``interval_s`` (or when woken) into one spool file each, in the order they are given; the
    ``UNHURRIED`` ones every few intervals.

    ``on_trouble(reason)`` is called when the disk refuses or rows cannot be encoded, ``on_lost(row, rows)`` for rows that will never
    be written. What the disk refuses stays in memory and is tried again every ``RETRY_INTERVAL_S``.
    """

    def __init__(
        self,
        run_dir: Path,
        buffers: Mapping[str, NumericBuffer | ObjectBuffer],
        interval_s: float,
        on_trouble: Callable[[str], None],
        on_lost: Callable[[str, int], None],
    ) -> None:
        self.lock = threading.Lock()  # held while writing
        self._run_dir = run_dir
        self._buffers = buffers
        self._interval_s = interval_s
        self._on_trouble, self._on_lost = on_trouble, on_lost
        self._spools: dict[str, SpoolWriter] = {}
        self._waiting: dict[str, list[Any]] = {row: [] for row in buffers}
        self._retry_at = 0.0
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="telemetry-writer", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Write soon rather than at the next interval."""
        self._wake.set()

    def flush(self) -> None:
        """Write everything there is, from the calling thread."""
        with self.lock:
            self._drain(force=True)

    def close(self) -> None:
        """Write everything, end the streams, force them to disk, end the thread. Never raises for the disk's sake."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        self._thread.join()
        self.flush()
        for row, left in self._waiting.items():
            for item in left:
                self._on_lost(row, _rows(item))
        for spool in self._spools.values():
            try:
                spool.close()
            except OSError as error:
                self._refused(spool.path, error)

    def _run(self) -> None:
        turn = 0
        while not self._closing:
            turn += 1
            woken = self._wake.wait(self._interval_s)
            self._wake.clear()
            with self.lock:
                self._drain(unhurried=woken or turn % UNHURRIED_EVERY == 0)

    def _drain(self, *, unhurried: bool = True, force: bool = False) -> None:
        for row, buffer in self._buffers.items():
            if unhurried or row not in UNHURRIED:
                self._waiting[row].extend(buffer.drain())
        if not force and time.monotonic() < self._retry_at:
            return
        for row, waiting in self._waiting.items():
            while waiting:
                try:
                    self._write(row, waiting[0])
                except OSError as error:
                    self._refused(spool_path(self._run_dir, row), error)
                    return
                except (pa.ArrowException, ValueError, TypeError, IndexError) as error:
                    self._on_trouble(f"{row} rows could not be encoded ({error})")
                    self._on_lost(row, _rows(waiting[0]))
                self._buffers[row].recycle(waiting.pop(0))

    def _write(self, row: str, item: Any) -> None:
        if row not in self._spools:
            self._spools[row] = SpoolWriter(spool_path(self._run_dir, row), arrow.schema(row))
        self._spools[row].write(self._buffers[row].batch(item))

    def _refused(self, path: Path, error: OSError) -> None:
        self._retry_at = time.monotonic() + RETRY_INTERVAL_S
        self._on_trouble(f"{path.name} could not be written: {error.strerror or error}")


def _rows(item: Any) -> int:
    """Rows in what a buffer handed over: a list of them, or a chunk."""
    return len(item) if isinstance(item, list) else item.rows
