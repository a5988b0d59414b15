"""A rate that cannot hold any more is stopped early: more requests have missed the objective than it allows, whatever
the rest will do.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa

from app.experiments.rate_search import probes
from app.home import Home
from app.runs.brief import brief_of
from store.aside import rows_aside
from store.metrics import request_latencies
from store.plan import Experiment
from store.samples import alone
from store.slo import GOODPUT_ATTAINMENT, in_time, parse_slo
from telemetry.spool import SpoolCorrupt, SpoolReader, spool_path

LOOK_S = 1.0
NUMBERS = ("arrival_ns", "first_token_ns", "end_ns", "output_tokens", "prompt_tokens")


class RateWatch:
    """Counts the requests of one run that have ended too late, as they end. The lowest rate is never stopped: what a
    request alone would see is read from it. Nor is a search by Sarathi-Serve's criterion, which is about a median and a
    percentile.
    """

    def __init__(self, home: Home, experiment: Experiment, run_id: str) -> None:
        self.run_id = run_id
        self._slo = parse_slo(experiment.slo)
        self._allowed = (1 - GOODPUT_ATTAINMENT) * brief_of(home.run_dir(run_id)).requests
        self._missed, self._looked_at = 0, time.monotonic()
        self._reader = SpoolReader(spool_path(home.run_dir(run_id), "request"))
        first = next((turn.run_id for turn in probes(experiment, experiment.baseline)), None)
        self._able = first is not None and experiment.search is not None and experiment.search.tbt_ms is None
        if first is not None:
            with rows_aside(home.runs, [first]) as rows:
                self._alone = alone(rows.con, [first])

    def cannot_hold(self) -> bool:
        """Whether the rate is lost for sure. Reads what is new at most once in ``LOOK_S``."""
        if not self._able or time.monotonic() < self._looked_at + LOOK_S:
            return False
        self._looked_at = time.monotonic()
        try:
            for item in self._reader.read():
                self._missed += self._too_late(item.batch)
        except (SpoolCorrupt, OSError, pa.ArrowException):
            self._able = False  # the run's own end will say what is wrong
        return self._missed > self._allowed + 1e-9

    def _too_late(self, batch: pa.RecordBatch) -> int:
        columns = {name: _floats(batch, name) for name in NUMBERS}
        latencies = request_latencies(columns, batch.column("end_reason").cast(pa.string()).to_pylist())
        bounds = self._slo.bounds_ms(columns["prompt_tokens"], self._alone)
        return int(np.sum(~in_time(latencies["ttft_ms"], latencies["tpot_ms"], *bounds)))


def _floats(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column as float64 [rows], nulls as NaN."""
    return np.asarray(batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
