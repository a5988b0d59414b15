"""One monotonic clock per run: every row's nanoseconds count from the same moment."""

from __future__ import annotations

import time


class RunClock:
    """Nanoseconds since the run's start, and the wall-clock moment of that start.

    The wall clock is read once. A later step of the machine's clock moves no row.
    """

    __slots__ = ("origin_monotonic_ns", "origin_unix_ns")

    def __init__(self, origin_monotonic_ns: int | None = None, origin_unix_ns: int | None = None) -> None:
        self.origin_monotonic_ns = time.monotonic_ns() if origin_monotonic_ns is None else origin_monotonic_ns
        self.origin_unix_ns = time.time_ns() if origin_unix_ns is None else origin_unix_ns

    def now_ns(self) -> int:
        """Nanoseconds since the run's start."""
        return time.monotonic_ns() - self.origin_monotonic_ns

    def unix_ns(self, time_ns: int) -> int:
        """Wall-clock nanoseconds since 1970 of a moment on this clock."""
        return self.origin_unix_ns + time_ns
