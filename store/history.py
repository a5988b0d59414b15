"""Series of a live run in bounded memory: the recent past whole, the older past thinned without losing a peak."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def thin(rows: np.ndarray, keep: int, by: int, counted: int | None = None) -> np.ndarray:
    """About ``keep`` of the rows, in order: the largest of column ``by`` in each of ``keep / 2`` buckets, the rest
    evenly. Of column ``counted`` nothing is lost: a row that stays has the sum over itself and those left out behind it.
    """
    n = len(rows)
    if n <= keep:
        return rows
    buckets = max(1, keep // 2)
    edges = np.linspace(0, n, buckets + 1).astype(np.int64)
    values = np.nan_to_num(rows[:, by], nan=-np.inf)
    peaks = np.maximum.reduceat(values, edges[:-1])
    bucket = np.searchsorted(edges, np.arange(n), side="right") - 1
    hits = np.flatnonzero(values == peaks[bucket])
    _, first = np.unique(bucket[hits], return_index=True)
    chosen = np.zeros(n, bool)
    chosen[hits[first]] = True
    chosen[np.linspace(0, n - 1, max(1, keep - buckets)).astype(np.int64)] = True
    kept = rows[chosen]
    if counted is not None:
        starts = np.flatnonzero(chosen)
        starts[0] = 0
        kept[:, counted] = np.add.reduceat(np.nan_to_num(rows[:, counted]), starts)
    return kept


class History:
    """Rows of float64 columns, appended in blocks and numbered from 0 in the order they came.

    The last ``recent`` to ``2 * recent`` rows are kept as they are. What is older is thinned to at most ``old`` rows
    that keep the largest value of column ``peak`` in every stretch, and the sum of column ``counted``.
    """

    def __init__(
        self,
        names: Sequence[str],
        peak: str,
        *,
        recent: int = 65_536,
        old: int = 32_768,
        counted: str | None = None,
    ) -> None:
        self.names = tuple(names)
        self.count = 0  # rows ever appended
        self._peak = self.names.index(peak)
        self._counted = None if counted is None else self.names.index(counted)
        self._limit, self._old_limit = recent, old
        self._rows = np.empty((2 * recent, len(self.names)))
        self._used = 0
        self._old = np.empty((0, len(self.names)))

    def append(self, rows: np.ndarray) -> None:
        """Rows ``[n, columns]``, in time order."""
        while len(rows):
            room = len(self._rows) - self._used
            part, rows = rows[:room], rows[room:]
            self._rows[self._used : self._used + len(part)] = part
            self._used += len(part)
            self.count += len(part)
            if self._used == len(self._rows):
                self._age()

    @property
    def recent(self) -> np.ndarray:
        """The rows that are still whole, oldest first; a view, valid until the next append."""
        return self._rows[: self._used]

    def column(self, name: str) -> np.ndarray:
        """A column of :attr:`recent`."""
        return self.recent[:, self.names.index(name)]

    def since(self, number: int) -> tuple[int, np.ndarray]:
        """Rows from ``number`` on as ``(first, rows)`` with ``first + len(rows) == count``.

        Where older rows were thinned out, the rows that are left are numbered backwards from the first whole one.
        """
        whole_from = self.count - self._used
        if number >= whole_from:
            return min(number, self.count), self.recent[min(number, self.count) - whole_from :].copy()
        known = self._old[max(0, number - (whole_from - len(self._old))) :]
        rows = np.concatenate([known, self.recent])
        return self.count - len(rows), rows

    def _age(self) -> None:
        leaving, staying = self._rows[: self._limit], self._rows[self._limit :]
        old = np.concatenate([self._old, thin(leaving, self._old_limit // 4, self._peak, self._counted)])
        self._old = thin(old, self._old_limit // 2, self._peak, self._counted) if len(old) > self._old_limit else old
        self._used = len(staying)
        self._rows[: self._used] = staying.copy()


class LatencyHistogram:
    """Percentiles over everything that ever came, in constant memory: counts in bins 1 % wide, from 1 us to 1,000 s."""

    LOW_MS, BINS_PER_E = 1e-3, 100  # a bin spans a factor of e ** 0.01

    def __init__(self) -> None:
        self.count = 0
        self.least, self.most = np.inf, -np.inf
        self._bins = np.zeros(int(np.log(1e9) * self.BINS_PER_E) + 2, np.int64)

    def add(self, values_ms: np.ndarray) -> None:
        if not len(values_ms):
            return
        places = np.log(np.maximum(values_ms, self.LOW_MS) / self.LOW_MS) * self.BINS_PER_E
        self._bins += np.bincount(np.minimum(places.astype(np.int64), len(self._bins) - 1), minlength=len(self._bins))
        self.count += len(values_ms)
        self.least, self.most = min(self.least, float(values_ms.min())), max(self.most, float(values_ms.max()))

    def with_also(self, values_ms: np.ndarray) -> LatencyHistogram:
        """A histogram of everything that came and ``values_ms``."""
        both = LatencyHistogram()
        both.count, both.least, both.most, both._bins = self.count, self.least, self.most, self._bins.copy()
        both.add(values_ms)
        return both

    def percentile(self, share: float) -> float | None:
        """The value at ``share`` of the ranks, right to half a percent and never beyond what was seen; None of none."""
        if not self.count:
            return None
        if share >= 1:
            return self.most
        place = int(np.searchsorted(np.cumsum(self._bins), share * (self.count - 1), side="right"))
        middle = float(self.LOW_MS * np.exp((place + 0.5) / self.BINS_PER_E))
        return min(max(middle, self.least), self.most)

    def above(self, limit_ms: float) -> int:
        """How many values are in bins above that of ``limit_ms``."""
        place = int(np.log(limit_ms / self.LOW_MS) * self.BINS_PER_E)
        return int(self._bins[place + 1 :].sum())
