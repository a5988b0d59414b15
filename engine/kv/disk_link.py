"""An emulated link to the disk tier: reading takes at least as long as over it."""

from __future__ import annotations

import time
from collections.abc import Callable


class DiskLink:
    """A link of one rate, or of two that take turns: the first one first."""

    def __init__(
        self,
        bytes_per_s: float,
        other_bytes_per_s: float | None = None,
        turn_s: float = 1.0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """
        Args:
            other_bytes_per_s: of the second rate; None: there is none.
            turn_s: how long each lasts.
            clock: of the run, ns; turns begin at 0.
        """
        self._rates = (bytes_per_s, bytes_per_s if other_bytes_per_s is None else other_bytes_per_s)
        self._turn_s = turn_s
        self._clock = clock

    def now(self) -> float:
        """Seconds on the run's clock."""
        return self._clock() / 1e9

    def arrival(self, since_s: float, nbytes: int) -> float:
        """When the last of so many bytes has come, of which the first leaves at ``since_s``; seconds on the run's
        clock."""
        if self._rates[0] == self._rates[1]:
            return since_s + nbytes / self._rates[0]
        turn, left = int(since_s // self._turn_s), float(nbytes)
        while True:
            rate, ends_s = self._rates[turn % 2], (turn + 1) * self._turn_s
            if left <= rate * (ends_s - since_s):
                return since_s + left / rate
            left -= rate * max(0.0, ends_s - since_s)
            since_s, turn = ends_s, turn + 1
