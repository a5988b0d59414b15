"""A rate that cannot hold any more is stopped early: so many requests, or gaps between tokens, have missed the
criterion that the rate is lost whatever the rest will do.
"""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np
import pyarrow as pa

from app.experiments.rate_search import MOST_DELAY_MS, probes
from app.home import Home
from app.runs.brief import Brief, brief_of
from store.aside import rows_aside
from store.metrics import request_latencies
from store.plan import Experiment
from store.samples import alone
from store.slo import GOODPUT_ATTAINMENT, Alone, Slo, in_time, parse_slo
from telemetry.spool import SpoolCorrupt, SpoolReader, spool_path

LOOK_S = 1.0
NUMBERS = ("arrival_ns", "first_token_ns", "end_ns", "output_tokens", "prompt_tokens")


class RateWatch:
    """Follows one run and counts what has missed the criterion, as it is recorded."""

    def __init__(self, home: Home, experiment: Experiment, run_id: str) -> None:
        self.run_id = run_id
        self._looked_at = time.monotonic()
        self._counts = _counts(home, experiment, run_id)
        folder = home.run_dir(run_id)
        self._readers = [SpoolReader(spool_path(folder, count.row)) for count in self._counts]

    def cannot_hold(self) -> bool:
        """Whether the rate is lost for sure. Reads what is new at most once in ``LOOK_S``."""
        if not self._counts or time.monotonic() < self._looked_at + LOOK_S:
            return False
        self._looked_at = time.monotonic()
        try:
            for count, reader in zip(self._counts, self._readers, strict=True):
                for item in reader.read():
                    count.take(item.batch)
        except (SpoolCorrupt, OSError, pa.ArrowException):
            self._counts = []  # the run's own end will say what is wrong
        return any(count.is_lost for count in self._counts)


class Count(Protocol):
    """What of a row type has missed the criterion. ``row``: the type."""

    row: str

    def take(self, batch: pa.RecordBatch) -> None: ...

    @property
    def is_lost(self) -> bool: ...


def _counts(home: Home, experiment: Experiment, run_id: str) -> list[Count]:
    """By the search's criterion. Of an objective the lowest rate is never stopped: what a request alone would see is
    read from it.
    """
    brief = brief_of(home.run_dir(run_id))
    assert experiment.search is not None
    if experiment.search.tbt_ms is not None:
        return [LongDelays(brief), LongGaps(brief, experiment.search.tbt_ms)]
    first = next((turn.run_id for turn in probes(experiment, experiment.baseline)), None)
    if first is None:
        return []
    with rows_aside(home.runs, [first]) as rows:
        return [LateRequests(brief, parse_slo(experiment.slo), alone(rows.con, [first]))]


class LateRequests:
    """Requests that ended without meeting the objective: lost once they are more than it allows."""

    row = "request"

    def __init__(self, brief: Brief, slo: Slo, unloaded: Alone) -> None:
        self._slo, self._alone = slo, unloaded
        self._allowed = (1 - GOODPUT_ATTAINMENT) * brief.requests
        self._missed = 0

    def take(self, batch: pa.RecordBatch) -> None:
        columns = {name: _floats(batch, name) for name in NUMBERS}
        latencies = request_latencies(columns, batch.column("end_reason").cast(pa.string()).to_pylist())
        bounds = self._slo.bounds_ms(columns["prompt_tokens"], self._alone)
        self._missed += int(np.sum(~in_time(latencies["ttft_ms"], latencies["tpot_ms"], *bounds)))

    @property
    def is_lost(self) -> bool:
        return self._missed > self._allowed + 1e-9


class LongDelays:
    """Requests that waited too long to be scheduled: lost once they are more than half of all, for the median is then
    one of them.
    """

    row = "request"

    def __init__(self, brief: Brief) -> None:
        self._requests, self._long = brief.requests, 0

    def take(self, batch: pa.RecordBatch) -> None:
        delays_ms = (_floats(batch, "first_scheduled_ns") - _floats(batch, "arrival_ns")) / 1e6
        self._long += int(np.sum(delays_ms > MOST_DELAY_MS))

    @property
    def is_lost(self) -> bool:
        return self._long > self._requests / 2 + 1


class LongGaps:
    """Gaps between tokens above the bound: lost once they are more than a hundredth of the most that there can be."""

    row = "slice"

    def __init__(self, brief: Brief, bound_ms: float) -> None:
        self._most = max(0, brief.expected_tokens - brief.requests)
        self._bound_ms, self._long = bound_ms, 0

    def take(self, batch: pa.RecordBatch) -> None:
        self._long += int(np.sum(_floats(batch, "itl_ns") / 1e6 > self._bound_ms))

    @property
    def is_lost(self) -> bool:
        return self._long > 0.01 * self._most + 1


def _floats(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column as float64 [rows], nulls as NaN."""
    return np.asarray(batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
