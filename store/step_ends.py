"""When engine steps ended, by their number: what a live run's tokens are placed in time by."""

from __future__ import annotations

import numpy as np

MOST = 1 << 22  # steps that are remembered, 16 bytes each


class StepEnds:
    """Ends of the steps so far, the latest ``most`` at least."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._numbers = np.empty(1024, np.int64)
        self._times = np.empty(1024)
        self._used = 0

    @property
    def last(self) -> int:
        """The largest number; -1 before the first step."""
        return int(self._numbers[self._used - 1]) if self._used else -1

    def add(self, numbers: np.ndarray, times: np.ndarray) -> None:
        """Take in steps [n], usually in order of their numbers."""
        in_order = bool((np.diff(numbers, prepend=self.last) > 0).all())
        if self._used + len(numbers) > len(self._numbers):
            kept = min(self._used, self._most)
            size = max(2 * (kept + len(numbers)), len(self._numbers))
            self._numbers, self._times = (
                np.concatenate([old[self._used - kept : self._used], np.empty(size - kept, old.dtype)])
                for old in (self._numbers, self._times)
            )
            self._used = kept
        end = self._used + len(numbers)
        self._numbers[self._used : end], self._times[self._used : end] = numbers, times
        self._used = end
        if not in_order:
            order = np.argsort(self._numbers[:end], kind="stable")
            self._numbers[:end], self._times[:end] = self._numbers[:end][order], self._times[:end][order]

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """When these steps [n] ended; NaN where that is not known."""
        if not self._used:
            return np.full(len(numbers), np.nan)
        known = self._numbers[: self._used]
        at = np.minimum(np.searchsorted(known, numbers), self._used - 1)
        return np.where(known[at] == numbers, self._times[at], np.nan)
