"""What the KV pool's memory was used for, in the database: parts over time, and shares of what requests held."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest
from row_maker import STEP_NS, iteration_values, make_run

from store import layouts
from store.claim_figures import step_figure_query
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder

MB = 1_000_000


def step(recorder: Recorder, iteration: int, used: int, internal: int, reserved: int, **more: int) -> None:
    """Parts in MB of a pool of 100."""
    values = {"kept": 0, "resident": -1, "mapped": 0, "released": 0} | more
    free = 100 - used - internal - reserved - values["kept"]
    resident = values["resident"]
    recorder.layout(
        iteration=iteration, time_ns=(iteration + 1) * STEP_NS, used_bytes=used * MB, internal_bytes=internal * MB,
        reserved_bytes=reserved * MB, kept_bytes=values["kept"] * MB, free_bytes=free * MB,
        resident_bytes=resident if resident < 0 else resident * MB, mapped_bytes=values["mapped"] * MB,
        released_bytes=values["released"] * MB, mapping_ns=1000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = tmp_path_factory.mktemp("layouts")
    for run in ("mapped", "reserved", "silent"):
        with Recorder(make_run(folder / "runs", run)) as recorder:
            for i in range(4):
                recorder.iteration(**iteration_values(i))
            if run == "mapped":
                step(recorder, 0, 10, 10, 0, mapped=20, resident=18)
                step(recorder, 1, 30, 10, 0, mapped=20)
                step(recorder, 2, 20, 0, 0, kept=20, resident=40)
                step(recorder, 3, 0, 0, 0, released=40)
            if run == "reserved":
                step(recorder, 0, 10, 5, 45)
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        for run in ("mapped", "reserved", "silent"):
            Collector(folder / "runs", database).ingest_once(run)
        yield cursor


def test_parts_over_time_are_those_of_the_steps(con) -> None:
    rows = layouts.parts_query("mapped", buckets=4).table(con).to_pylist()
    assert [row["used_mb"] for row in rows] == [10, 30, 20, 0]
    assert [row["kept_mb"] for row in rows] == [0, 0, 20, 0]
    assert [row["resident_mb"] for row in rows] == [18, None, 40, None], "what was not read is not there"
    assert sum(row["mapped_mb"] for row in rows) == sum(row["released_mb"] for row in rows) == 40
    assert {sum(row[f"{part}_mb"] for part in layouts.PARTS) for row in rows} == {100}


def test_shares_are_of_what_requests_held(con) -> None:
    reserved, mapped = layouts.totals_query(["reserved", "silent", "mapped"]).rows(con)
    assert (reserved["run_id"], mapped["run_id"]) == ("reserved", "mapped"), "in the order asked for, of those that say"
    assert mapped["used_share"] == pytest.approx(60 / 80)
    assert mapped["internal_share"] == pytest.approx(20 / 80)
    assert reserved["reserved_share"] == pytest.approx(45 / 60)
    assert (mapped["pool_mb"], mapped["held_mb"], mapped["resident_mb"]) == (100, 40, 40)
    assert reserved["resident_mb"] is None


def test_a_claims_figures_leave_out_steps_in_which_nobody_held_anything(con) -> None:
    waste = step_figure_query("mapped", "held_waste_share", {}).one(con)["value"]
    assert waste == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert step_figure_query("mapped", "resident_mb", {}).one(con)["value"] == 40
    assert step_figure_query("silent", "held_waste_share", {}).one(con)["value"] is None
