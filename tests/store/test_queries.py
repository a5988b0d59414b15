"""The pages' questions, asked of runs whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pytest
from row_maker import STEP_NS, iteration_values, make_run, record_run, set_status

from store import queries
from store.database import Database
from store.ingest import Collector
from store.metrics import STALL_MS
from telemetry.recorder import Recorder

STEPS, SLOW = 5000, 3210  # one step of many takes a hundred times as long


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = tmp_path_factory.mktemp("queries")
    runs = folder / "runs"
    record_run(runs, "small")
    record_run(runs, "other", steps=7)
    long = make_run(runs, "long")
    with Recorder(long) as recorder:
        for i in range(STEPS):
            start = i * STEP_NS
            took = STEP_NS * (100 if i == SLOW else 1)
            recorder.iteration(
                **iteration_values(i, start_ns=start, end_ns=start + took, decode_tokens=4, emitted_tokens=4)
            )
            latencies = np.full(4, STEP_NS) + np.arange(4)
            if i == SLOW:
                latencies[2] = 100 * STEP_NS
            recorder.slices(i, request=np.arange(4), kind=1, tokens=1, context_len=i, emitted=1, itl_ns=latencies)
            recorder.device(time_ns=start, device="cpu", utilization=i % 100)
    set_status(long, "finished")
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        collector = Collector(runs, database)
        for run_id in ("small", "other", "long"):
            collector.ingest_once(run_id)
        yield cursor


def test_few_iterations_come_whole_in_the_live_sockets_columns(con) -> None:
    table = queries.iterations(con, "small")
    assert table.column_names == list(queries.ITERATION_COLUMNS)
    assert table.column("iteration").to_pylist() == list(range(50))
    assert table.column("t").to_pylist()[:2] == [0.01, 0.02]
    assert set(table.column("duration_ms").to_pylist()) == {10.0}


@pytest.mark.parametrize("points", [2, 10, 300, 2000])
def test_thinning_iterations_never_hides_the_spike(con, points: int) -> None:
    table = queries.iterations(con, "long", points)
    assert 2 <= table.num_rows <= points + 2
    assert SLOW in table.column("iteration").to_pylist()
    assert max(table.column("duration_ms").to_pylist()) == 1000.0
    assert table.column("iteration").to_pylist() == sorted(table.column("iteration").to_pylist())


@pytest.mark.parametrize("points", [2, 50, 1000, 10_000])
def test_thinning_tokens_keeps_the_stall_and_spreads_the_rest(con, points: int) -> None:
    table = queries.token_latencies(con, "long", points)
    assert table.column_names == ["t", "itl_ms", "request"]
    assert table.num_rows <= 1.3 * points + 4
    stall = max(table.to_pylist(), key=lambda row: row["itl_ms"])
    assert (stall["itl_ms"], stall["request"]) == (1000.0, 2)
    if points >= 50:
        halves = np.histogram(table.column("t").to_numpy(), bins=2, range=(0, STEPS / 100))[0]
        assert min(halves) > 0.3 * table.num_rows


def test_every_token_is_there_when_they_are_few(con) -> None:
    assert (
        queries.token_latencies(con, "small").num_rows == 49 * 4
    )  # the first emission of each request has no predecessor


def test_stalls_are_counted_over_every_gap_not_over_those_drawn(con) -> None:
    table = con.execute("SELECT itl_ns / 1e6 AS ms FROM slices WHERE run_id = 'long' AND itl_ns IS NOT NULL")
    gaps = table.fetchnumpy()["ms"]
    summary = queries.summary(con, "long")
    assert summary["stalls"] == int((gaps > STALL_MS).sum()) == 1
    assert (summary["itl_ms"]["count"], summary["itl_ms"]["max"]) == (len(gaps), 1000.0)


def test_runs_do_not_mix(con) -> None:
    assert queries.iterations(con, "other").num_rows == 7
    assert queries.batch_makeup(con, "other", 0, 100).num_rows == 7 * 4
    for answer in (queries.iterations, queries.token_latencies, queries.devices, queries.requests, queries.decisions):
        assert answer(con, "nobody").num_rows == 0


def test_devices_are_thinned_evenly(con) -> None:
    table = queries.devices(con, "long", 100)
    assert table.column_names == list(queries.DEVICE_COLUMNS)
    assert 50 <= table.num_rows <= 100
    assert len(set(np.diff(table.column("t").to_numpy()).round(6))) == 1


def test_requests_carry_their_latencies_and_text_only_when_asked(con) -> None:
    rows = queries.requests(con, "small").to_pylist()
    assert [r["request"] for r in rows] == [0, 1, 2, 3]
    assert rows[0]["ttft_ms"] == 10.0
    assert rows[0]["tpot_ms"] == pytest.approx(10.0)
    assert "text" not in rows[0]
    assert {"text", "output_token_ids", "group"} <= set(queries.requests(con, "small", text=True).column_names)


def test_one_request_comes_with_its_text(con) -> None:
    one = queries.request(con, "small", 2)
    assert one is not None
    assert one["request_id"] == "r2"
    assert {"text", "output_token_ids"} <= one.keys()
    assert queries.request(con, "small", 99) is None


def test_decisions_are_the_latest_oldest_first(con) -> None:
    assert [d["iteration"] for d in queries.decisions(con, "small", 3).to_pylist()] == [47, 48, 49]


def test_values_are_bound_never_pasted(con) -> None:
    evil = "x' OR '1'='1"
    assert queries.run(con, evil) is None
    assert queries.iterations(con, evil).num_rows == 0
    query = queries.token_latencies_query(evil)
    assert evil not in query.sql
    assert query.parameters["run"] == evil
