"""From pages of metrics to figures: what counters grew by and what fell into histograms' buckets between two readings.

A counter that is smaller than before began anew (its engine was started again), and has grown by what it shows. With
``process_start_time_seconds`` a new start is seen even where a counter has already passed its old value. What stood
there at the first reading came before anybody watched, and is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from app.attach.families import MEANS, Families
from app.attach.prometheus import Labels, Page
from store.foreign import FIGURES, SUM

STARTED = "process_start_time_seconds"
Series = tuple[str, str, Labels]  # figure, sample, labels: a sample may count towards several figures


@dataclass
class Readings:
    """One engine's pages, one after the other."""

    prefix: str
    families: Families
    told: set[str] = field(default_factory=set)  # figures that its pages have
    _before: dict[Series, float] = field(default_factory=dict)
    _read: int = 0
    _started: float | None = None

    def take(self, page: Page) -> tuple[list[dict[str, Any]], bool]:
        """Rows' ``name``, ``bound``, ``value`` and whether they cover a span (``counted``); and whether the engine's
        counters began anew. Of the first page only states.
        """
        started = max((v for v in page.get(STARTED, {}).values() if math.isfinite(v)), default=None)
        anew = self._read > 0 and started is not None and self._started is not None and started > self._started
        self._started = started if started is not None else self._started
        if anew:
            self._before.clear()
        rows: list[dict[str, Any]] = []
        for name, candidates in self.families.items():
            kind = FIGURES[name].kind
            if kind == "state":
                rows += self._state(page, name, candidates)
            elif kind == "count":
                fallen, grown = self._count(page, name, candidates)
                anew |= fallen
                rows += grown
            else:
                fallen, grown = self._histogram(page, name, candidates)
                anew |= fallen
                rows += grown
        self._read += 1
        return rows, anew

    def _state(self, page: Page, name: str, candidates: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        for family in candidates:
            values = [v for v in page.get(self.prefix + family, {}).values() if math.isfinite(v)]
            if values:
                self.told.add(name)
                value = sum(values) / (len(values) if name in MEANS else 1)
                yield {"name": name, "bound": None, "value": value, "counted": False}
                return

    def _count(self, page: Page, name: str, candidates: tuple[str, ...]) -> tuple[bool, list[dict[str, Any]]]:
        for families in candidates:
            samples = [self._sample(page, family) for family in families.split("+")]
            if all(samples):
                self.told.add(name)
                grown = [self._grown(name, sample, page[sample]) for sample in samples]
                fallen = any(began for began, _ in grown)
                return fallen, [] if self._read == 0 else [
                    _counted(name, None, sum(sum(by_set.values()) for _, by_set in grown))
                ]
        return False, []

    def _sample(self, page: Page, family: str) -> str:
        """What a counter is called on this page; "" where it is not there."""
        names = (f"{self.prefix}{family}_total", f"{self.prefix}{family}")
        return next((name for name in names if name in page), "")

    def _histogram(self, page: Page, name: str, candidates: tuple[str, ...]) -> tuple[bool, list[dict[str, Any]]]:
        for family in candidates:
            sample = f"{self.prefix}{family}"
            if f"{sample}_bucket" not in page:
                continue
            self.told.add(name)
            fallen, grown = self._grown(name, f"{sample}_bucket", page[f"{sample}_bucket"])
            _, sums = self._grown(name, f"{sample}_sum", page.get(f"{sample}_sum", {}), fallen)
            if self._read == 0:  # so that the bounds of buckets that stay empty are known
                return bool(fallen), [_counted(name, bound, 0.0) for bound in _buckets(grown)]
            rows = [_counted(name, bound, count) for bound, count in _buckets(grown).items() if count > 0]
            if rows:
                rows.append(_counted(name + SUM, None, sum(sums.values())))
            return bool(fallen), rows
        return False, []

    def _grown(
        self, name: str, sample: str, series: Mapping[Labels, float], fallen: Set[Labels] = frozenset()
    ) -> tuple[set[Labels], dict[Labels, float]]:
        """Which label sets (but for ``le``) began anew, those of ``fallen`` among them, and how much each series grew.
        A histogram's buckets begin anew together.
        """
        known = {labels: value for labels, value in series.items() if math.isfinite(value) and value >= 0}
        before = {labels: self._before.get((name, sample, labels), 0.0) for labels in known}
        anew = {_but_bound(labels) for labels, value in known.items() if value < before[labels]} | fallen
        self._before.update({(name, sample, labels): value for labels, value in known.items()})
        return anew, {
            labels: value - (0.0 if _but_bound(labels) in anew else before[labels]) for labels, value in known.items()
        }


def _but_bound(labels: Labels) -> Labels:
    return tuple(pair for pair in labels if pair[0] != "le")


def _counted(name: str, bound: float | None, value: float) -> dict[str, Any]:
    return {"name": name, "bound": bound, "value": value, "counted": True}


def _buckets(grown: Mapping[Labels, float]) -> dict[float, float]:
    """Values in each bucket, from counts of all that are at most as large as its bound; label sets are added up, each
    of which may have bounds of its own.
    """
    by_set: dict[Labels, dict[float, float]] = {}
    for labels, count in grown.items():
        bound = dict(labels).get("le")
        try:
            at = float(str(bound).replace("Inf", "inf"))
        except ValueError:
            continue
        if not math.isnan(at):
            by_set.setdefault(_but_bound(labels), {})[at] = count
    buckets: dict[float, float] = {}
    for counts in by_set.values():
        below = 0.0
        for bound_at in sorted(counts):
            buckets[bound_at] = buckets.get(bound_at, 0.0) + max(0.0, counts[bound_at] - below)
            below = max(below, counts[bound_at])
    return dict(sorted(buckets.items()))
