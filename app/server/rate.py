"""How often something may happen: so many at once, and then so many a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Rate:
    """A bucket of ``burst`` that fills with ``per_s`` a second. Safe to use from any thread."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left, self._at = float(burst), clock()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether it may happen once more now; if so it counts."""
        with self._lock:
            now = self._clock()
            self._left = min(float(self._burst), self._left + (now - self._at) * self._per_s)
            self._at = now
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True
