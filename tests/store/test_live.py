"""A live run in memory: the frames a browser gets, the figures beside them, and that neither grows without end."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_maker import STEP_NS, iteration_values, make_run, record_run, record_step, request_values

from store import queries
from store.database import Database
from store.history import History, LatencyHistogram, thin
from store.in_flight import InFlight, in_flight_of
from store.ingest import Collector
from store.live_run import LiveRun
from store.live_runs import LiveRuns
from telemetry.recorder import Recorder
from telemetry.spool import SpoolReader, spool_path
from tests.examples import examples


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "db.duckdb") as opened:
        yield opened


def decode(frame: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """What a browser makes of a frame."""
    (length,) = struct.unpack_from("<I", frame)
    header = json.loads(frame[4 : 4 + length])
    values = np.frombuffer(frame, "<f8", offset=4 + length).reshape(len(header["columns"]), header["n"])
    return header, dict(zip(header["columns"], values, strict=True))


def collect(database: Database, runs: Path, run_id: str = "r1") -> LiveRun:
    live = LiveRuns(database)
    Collector(runs, database, live.on_batch).ingest_once(run_id)
    return live.get(run_id)


def test_frames_are_what_the_document_says(tmp_path: Path, database: Database) -> None:
    record_run(tmp_path / "runs", "r1")
    cursor: dict[str, int] = {}
    frames = [decode(f) for f in collect(database, tmp_path / "runs").frame_since(cursor)]
    tables = {header["table"]: (header, columns) for header, columns in frames}
    assert set(tables) == {"iteration", "token", "request"}
    header, columns = tables["iteration"]
    assert header["first"] == 0
    assert header["n"] == 50
    assert header["columns"] == list(queries.ITERATION_COLUMNS)
    assert columns["t"].tolist() == [(i + 1) / 100 for i in range(50)]
    assert np.isnan(columns["token_budget"]).all(), "NaN stands for null"
    assert tables["token"][0]["columns"] == ["t", "itl_ms", "request"]
    assert tables["request"][1]["ttft_ms"].tolist() == [10.0] * 4
    assert cursor == {"iteration": 50, "token": 196, "request": 4, "device": 0}


def test_live_and_finished_draw_the_same_points(tmp_path: Path, database: Database) -> None:
    record_run(tmp_path / "runs", "r1")
    live = collect(database, tmp_path / "runs")
    with database.read() as con:
        replayed = LiveRun.from_database(con, "r1")
        from_store = {"iteration": queries.iterations(con, "r1"), "token": queries.token_latencies(con, "r1")}
    assert live.frame_since({}) == replayed.frame_since({})
    for frame in live.frame_since({}):
        header, columns = decode(frame)
        if header["table"] in from_store:
            table = from_store[header["table"]]
            for name in header["columns"]:
                expected = table.column(name).cast(pa.float64()).to_numpy()
                np.testing.assert_allclose(columns[name], expected, err_msg=name)


def test_a_broken_connection_resumes_where_it_was(tmp_path: Path, database: Database) -> None:
    record_run(tmp_path / "runs", "r1")
    live = collect(database, tmp_path / "runs")
    frames = [decode(f) for f in live.frame_since({"iteration": 48, "token": 196, "request": 4})]
    assert [(h["table"], h["first"], h["n"]) for h, _ in frames] == [("iteration", 48, 2)]
    cursor = {"iteration": 48}
    live.frame_since(cursor)
    assert live.frame_since(cursor) == []


def test_slices_wait_for_the_iteration_that_dates_them(tmp_path: Path) -> None:
    live = LiveRun("r1")
    with Recorder(tmp_path) as recorder:
        record_step(recorder, 0)
        record_step(recorder, 1)

    (slices,) = SpoolReader(spool_path(tmp_path, "slice")).read()
    (iterations,) = SpoolReader(spool_path(tmp_path, "iteration")).read()
    live.feed("slice", slices.batch)
    assert live.frame_since({}) == []
    live.feed("iteration", iterations.batch.slice(0, 1))
    assert {decode(f)[0]["table"] for f in live.frame_since({})} == {"iteration"}
    live.feed("iteration", iterations.batch.slice(1, 1))
    tokens = {decode(f)[0]["table"]: decode(f)[1] for f in live.frame_since({})}["token"]
    assert tokens["t"].tolist() == [0.02] * 4


def test_a_server_that_starts_amid_a_run_misses_nothing(tmp_path: Path, database: Database) -> None:
    run_dir = make_run(tmp_path / "runs", "r1")
    with Recorder(run_dir) as recorder:
        for i in range(20):
            record_step(recorder, i)
        recorder.flush()
        Collector(tmp_path / "runs", database).ingest_once("r1")  # the server that went away
        for i in range(20, 40):
            record_step(recorder, i)
        recorder.flush()
        live = collect(database, tmp_path / "runs")
    iterations = next(decode(f)[1] for f in live.frame_since({}) if decode(f)[0]["table"] == "iteration")
    assert iterations["iteration"].tolist() == list(range(40))


def feed_steps(
    live: LiveRun, folder: Path, steps: int, batch: int, itl_ns: np.ndarray, *, running: bool = False
) -> None:
    with Recorder(folder) as recorder:
        recorder.run(
            "start",
            "running",
            peaks={"flops_per_s": 1e12, "bytes_per_s": 1e11},
            time_ns=0,
            unix_ns=time.time_ns() if running else 0,
        )
        for i in range(steps):
            recorder.slices(i, request=np.arange(batch), kind=1, tokens=1, context_len=i, emitted=1, itl_ns=itl_ns[i])
            recorder.iteration(
                **iteration_values(i, emitted_tokens=batch, running=batch, waiting=3, blocks_used=25, flops=8e9)
            )
        recorder.request(**request_values(0))
        if not running:
            recorder.run("end", "finished", time_ns=steps * STEP_NS)

    for row in ("run", "iteration", "slice", "request"):
        for item in SpoolReader(spool_path(folder, row)).read():
            live.feed(row, item.batch)


def test_figures_are_those_of_the_last_seconds(tmp_path: Path) -> None:
    live = LiveRun("r1")
    latencies = np.random.default_rng(2).integers(5_000_000, 50_000_000, (1500, 4))
    feed_steps(live, tmp_path, 1500, 4, latencies)
    figures = live.figures()
    json.dumps(figures, allow_nan=False)
    assert live.ended
    assert figures["tokens_per_s"] == pytest.approx(400)  # 4 tokens every 10 ms
    assert figures["itl_ms"]["p50"] == pytest.approx(np.median(latencies) / 1e6, rel=0.006)
    assert figures["itl_ms"]["p99"] == pytest.approx(np.percentile(latencies, 99) / 1e6, rel=0.006)
    recent = latencies[-1000:]  # the last ten seconds
    assert figures["itl_ms"]["recent"]["p99"] == pytest.approx(np.percentile(recent, 99) / 1e6)
    assert figures["running"] == 4
    assert figures["waiting"] == 3
    assert figures["kv_used_share"] == 0.25
    assert figures["limit"]["kind"] == "compute"
    assert figures["trend"]["tokens_per_s"] == [pytest.approx(400)]


def test_an_engine_that_stopped_talking_makes_no_tokens(tmp_path: Path) -> None:
    live = LiveRun("r1")
    feed_steps(live, tmp_path, 10, 4, np.full((10, 4), STEP_NS), running=True)
    live.figures()
    live._heard_at -= 60  # as if the last row had come a minute ago
    assert live.figures()["tokens_per_s"] == 0


def test_an_empty_run_has_figures_too() -> None:
    figures = LiveRun("nothing yet").figures()
    json.dumps(figures, allow_nan=False)
    assert figures["tokens_per_s"] == 0
    assert figures["itl_ms"]["p50"] is None
    assert figures["limit"] is None, "waiting and loading are not too little work"


def test_an_engine_that_stands_still_has_too_little_work(tmp_path: Path) -> None:
    live = LiveRun("r1")
    feed_steps(live, tmp_path, 10, 4, np.full((10, 4), STEP_NS), running=True)
    live.figures()
    live._heard_at -= 60
    assert live.figures()["limit"]["kind"] == "no_work"


def in_flight(at_s: float, iterations: int, **more: Any) -> InFlight:
    """As ``status.json`` says it, ``at_s`` after the run's start and after so many iterations."""
    about = {"at_ns": round(at_s * 1e9), "iterations": iterations, "running": 4, "waiting": 0, "requests": []} | more
    parsed = in_flight_of({"in_flight": about})
    assert parsed is not None
    return parsed


def prompt_step(start_s: float, iteration: int) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "start_ns": round(start_s * 1e9),
        "prefill_tokens": 5000,
        "decode_requests": 4,
        "flops": 1e13,
    }


def test_a_long_step_in_flight_keeps_the_engine_busy_and_is_named(tmp_path: Path) -> None:
    live = LiveRun("r1")
    feed_steps(live, tmp_path, 10, 4, np.full((10, 4), STEP_NS), running=True)  # ten steps, over at 0.1 s
    figures = live.figures(in_flight(8.0, 10, running=11, waiting=2, step=prompt_step(0.1, 10)))
    assert figures["limit"]["kind"] == "compute"
    assert "5,000 prompt tokens and a token for 4 requests for 5.0 s" in figures["limit"]["sentence"]
    assert figures["limit"]["figures"]["busy_share"] == 1.0
    assert (figures["running"], figures["waiting"]) == (11, 2)
    assert figures["tokens_per_s"] == 0
    first = LiveRun("r2").figures(in_flight(3.0, 0, step=prompt_step(0.2, 0)))
    assert first["limit"]["kind"] == "compute", "the very first step counts too"


def test_what_is_in_flight_follows_the_rows_and_never_contradicts_them(tmp_path: Path) -> None:
    live = LiveRun("r1")
    feed_steps(live, tmp_path, 1000, 4, np.full((1000, 4), STEP_NS), running=True)  # over at 10 s
    settled = live.figures()
    for stale in (
        in_flight(9.0, 900, running=1, step=prompt_step(8.0, 900)),
        in_flight(10.4, 1040, step=prompt_step(10.39, 1040)),
    ):
        figures = live.figures(stale)  # of before the last row; or its rows are still on their way
        assert (figures["limit"]["kind"], figures["tokens_per_s"]) == (
            settled["limit"]["kind"],
            settled["tokens_per_s"],
        )
        assert figures["running"] == 4
    assert live.figures(in_flight(20.0, 1000, running=0))["limit"]["kind"] == "no_work", "an engine that naps is idle"


def test_a_first_token_counts_when_it_comes_and_once(tmp_path: Path) -> None:
    live = LiveRun("r1")
    for at in (1.0, 2.0):
        ms = [[k, 0, 10**6 * (100 + k), round(at * 1e9)] for k in range(10)]
        figures = live.figures(in_flight(at, 0, requests=ms))
    assert (figures["ttft_ms"]["count"], figures["ttft_ms"]["max"]) == (10, 109.0)
    assert figures["ttft_ms"]["recent"]["p50"] == pytest.approx(104.5)
    assert sorted(live.first_token_latencies_ms) == [100.0 + k for k in range(10)]
    with Recorder(tmp_path) as recorder:
        for k in range(10):
            recorder.request(**request_values(k, first_token_ns=10**6 * (100 + k), end_ns=3 * 10**9))
    for item in SpoolReader(spool_path(tmp_path, "request")).read():
        live.feed("request", item.batch)
    assert live.figures(in_flight(3.0, 0, requests=ms))["ttft_ms"]["count"] == 10


def test_waits_that_are_not_over_count_once_they_are_longer_than_the_median(tmp_path: Path) -> None:
    live = LiveRun("r1")
    feed_steps(
        live, tmp_path, 100, 4, np.full((100, 4), STEP_NS), running=True
    )  # over at 1 s, gaps of 10 ms, one TTFT of 10 ms
    before = live.figures()
    assert (before["itl_ms"]["max"], before["stalls"]) == (10.0, 0)
    step = prompt_step(1.0, 100)
    served = [[k, 0, STEP_NS, 10**9] for k in range(1, 9)]  # eight requests had their last token at 1 s
    asked = [[20 + k, 2 * 10**9, None, None] for k in range(3)]  # three arrived at 2 s and wait for their first
    figures = live.figures(in_flight(6.0, 100, step=step, requests=[*served, *asked]))
    assert (figures["itl_ms"]["max"], figures["stalls"]) == (5000.0, 8)
    assert figures["itl_ms"]["p99"] == pytest.approx(5000, rel=0.006)
    assert figures["itl_ms"]["p50"] == pytest.approx(10, rel=0.006)
    assert figures["ttft_ms"]["max"] == 4000.0
    soon = live.figures(in_flight(1.004, 100, step=step, requests=[*served, *asked[:0]]))
    assert soon["itl_ms"]["count"] == 400, "gaps that have just begun say nothing yet"
    assert live.figures()["stalls"] == 0, "they were not taken for good"


@pytest.mark.parametrize(
    "said", [None, 5, [], {}, {"at_ns": -1}, {"at_ns": 1, "iterations": 0, "running": "x", "waiting": 0}]
)
def test_nonsense_in_flight_is_nothing_in_flight(said: Any) -> None:
    assert in_flight_of({"in_flight": said}) is None


def test_no_percentile_lies_beyond_what_was_seen() -> None:
    histogram = LatencyHistogram()
    histogram.add(np.array([286.4]))
    assert histogram.percentile(0.99) == histogram.percentile(0.5) == 286.4
    with_more = histogram.with_also(np.array([12.0]))
    assert 12.0 <= with_more.percentile(0.0) < with_more.percentile(1.0) == 286.4
    assert histogram.count == 1


def test_a_million_tokens_stay_in_bounds_with_every_stall() -> None:
    history = History(("t", "itl_ms", "request"), "itl_ms")
    rng = np.random.default_rng(3)
    stalls = set()
    for k in range(100):
        rows = np.column_stack([np.arange(10_000) + 10_000 * k, rng.uniform(1, 5, 10_000), np.zeros(10_000)])
        if k % 10 == 3:
            rows[777, 1] = 1000.0 + k
            stalls.add(1000.0 + k)
        history.append(rows)
    first, rows = history.since(0)
    assert history.count == 1_000_000
    assert len(rows) < 200_000
    assert first + len(rows) == history.count
    assert stalls <= set(rows[:, 1])
    assert (np.diff(rows[:, 0]) > 0).all(), "in order, nothing twice"
    assert rows[-1, 0] == 999_999
    spread = np.histogram(rows[:, 0], bins=10)[0]
    assert spread.min() > 0, "no stretch of the past is left empty"


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.integers(0, 400), max_size=12),
    st.lists(st.integers(0, 12), max_size=6),
)
def test_history_hands_out_every_recent_row_once(sizes: list[int], asks: list[int]) -> None:
    history = History(("t", "v"), "v", recent=100, old=40)
    sent, at = 0, 0
    for k, size in enumerate(sizes):
        history.append(np.column_stack([np.arange(at, at + size), np.ones(size)]))
        at += size
        if k in asks:
            first, rows = history.since(sent)
            assert first + len(rows) == at == history.count
            if at - sent <= 100:
                assert rows[:, 0].tolist() == list(range(sent, at))
            assert len(rows) <= 240
            sent = at


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=500), st.integers(4, 100))
def test_thinning_keeps_the_largest_and_the_order(values: list[float], keep: int) -> None:
    rows = np.column_stack([np.arange(len(values)), values])
    thinned = thin(rows, keep, 1)
    assert len(thinned) <= max(keep, 1)
    assert max(values) in thinned[:, 1]
    assert (np.diff(thinned[:, 0]) > 0).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=500), st.integers(4, 100))
def test_thinning_loses_no_preemption(thrown: list[int], keep: int) -> None:
    rows = np.column_stack([np.arange(len(thrown)), np.arange(len(thrown)) % 7, thrown])
    thinned = thin(rows, keep, 1, counted=2)
    assert thinned[:, 2].sum() == sum(thrown)
    assert thinned[:, 0].tolist() == thin(rows, keep, 1)[:, 0].tolist()


def test_a_history_counts_what_it_left_out() -> None:
    history = History(("t", "peak", "thrown"), "peak", recent=50, old=20, counted="thrown")
    for at in range(1000):
        history.append(np.array([[at, 1.0, at % 3 == 0]]))
    first, rows = history.since(0)
    assert len(rows) < 200 < first
    assert rows[:, 2].sum() == sum(at % 3 == 0 for at in range(1000))


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_the_histogram_knows_the_ranks_to_half_a_percent(values: list[float], share: float) -> None:
    histogram = LatencyHistogram()
    for part in np.array_split(np.array(values), 3):
        histogram.add(part)
    exact = float(np.quantile(values, share, method="lower"))
    assert histogram.percentile(share) == pytest.approx(exact, rel=0.0051)


def test_runs_that_are_over_are_let_go(tmp_path: Path, database: Database) -> None:
    live = LiveRuns(database, keep=2)
    kept = [live.get(f"run{k}") for k in range(5)]
    assert live.get("run4") is kept[4]
    assert live.get("run0") is not kept[0]
