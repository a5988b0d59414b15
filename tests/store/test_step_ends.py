"""Ends of steps by number: all that were taken in lately are found, whatever else is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from store.database import Database
from store.ingest import Collector
from store.live_runs import LiveRuns
from store.step_ends import StepEnds
from telemetry.recorder import Recorder
from tests.row_maker import STEP_NS, iteration_values, make_run


@given(st.lists(st.lists(st.integers(0, 400), max_size=60, unique=True), max_size=12), st.integers(1, 3000))
def test_every_step_is_found(batches: list[list[int]], most: int) -> None:
    ends, known = StepEnds(most), {}
    for batch in batches:
        new = [number for number in batch if number not in known]
        ends.add(np.array(new, np.int64), np.array(new) / 8)
        known |= dict.fromkeys(new)
    asked = np.arange(-1, 402)
    found = ends.of(asked)
    if most >= len(known):
        assert ends.last == max(known, default=-1)
        assert [n for n, end in zip(asked, found, strict=True) if end == n / 8] == sorted(known)
        assert np.isnan(found).sum() == len(asked) - len(known)


def test_the_latest_steps_stay_known_and_memory_is_bounded() -> None:
    ends = StepEnds(most=5000)
    for first in range(0, 100_000, 700):
        numbers = np.arange(first, first + 700)
        ends.add(numbers, numbers * 0.5)
    assert (
        ends.of(np.arange(ends.last - 4999, ends.last + 1)) == np.arange(ends.last - 4999, ends.last + 1) * 0.5
    ).all()
    assert np.isnan(ends.of(np.array([0, ends.last + 1]))).all()
    assert len(ends._numbers) < 20_000


def test_a_long_run_that_is_read_at_once_has_every_token_in_its_place(tmp_path: Path) -> None:
    steps = 70_000
    with Recorder(make_run(tmp_path / "runs", "r1")) as recorder:
        for number in range(steps):
            recorder.slices(number, request=0, kind="decode", tokens=1, context_len=9, emitted=1, itl_ns=STEP_NS)
            recorder.iteration(**iteration_values(number))
            if not number % 5000:
                recorder.flush()
    with Database(tmp_path / "db.duckdb") as database:
        live = LiveRuns(database)
        Collector(tmp_path / "runs", database, live.on_batch).ingest_once("r1")
        assert live.get("r1")._tokens.count == steps
