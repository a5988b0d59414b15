"""From spool to database: everything, once, whatever the folder holds."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_maker import iteration_values, make_run, record_run, record_step, request_values, set_status, spooled, stored

from store import queries
from store.database import Database
from store.errors import StoreError
from store.ingest import Collector
from store.reindex import reindex
from store.schema import TABLES
from telemetry.process import is_alive
from telemetry.recorder import Recorder
from telemetry.spool import SpoolWriter, spool_path
from telemetry.status import ask_for_end, end_orphan, read_status
from tests.examples import examples


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "servescope.duckdb") as opened:
        yield opened


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def count(database: Database, table: str, run_id: str = "r1") -> int:
    with database.read() as con:
        return con.execute(f"SELECT count(*) FROM {table} WHERE run_id = ?", [run_id]).fetchall()[0][0]


def damage(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0xFF
    path.write_bytes(data)


def test_a_run_arrives_whole_and_in_order(runs: Path, database: Database) -> None:
    run_dir = record_run(runs, "r1", steps=60)
    Collector(runs, database).ingest_once("r1")
    with database.read() as con:
        for row in TABLES:
            assert stored(con, "r1", row) == spooled(run_dir, row)


def test_ingesting_again_adds_nothing(runs: Path, database: Database) -> None:
    record_run(runs, "r1")
    assert Collector(runs, database).ingest_once("r1") > 0
    assert Collector(runs, database).ingest_once("r1") == 0


@settings(max_examples=examples(20), deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=())),
    tokens=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=5),
    first=st.none() | st.integers(0, 2**63 - 1),
    value=st.none() | st.floats(allow_nan=False),
)
def test_any_value_is_the_same_in_the_database(
    text: str, tokens: list[int] | None, first: int | None, value: float | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        run_dir = make_run(runs, "r1")
        with Recorder(run_dir) as recorder:
            recorder.request(
                **request_values(0, text=text, request_id=text, output_token_ids=tokens, first_token_ns=first)
            )
            recorder.decision(0, "evicted", "pool_full", value=value, time_ns=0)
            recorder.run("start", "running", error={"message": text})
        with Database(Path(folder) / "db") as database, database.read() as con:
            Collector(runs, database).ingest_once("r1")
            for row in ("request", "decision", "run"):
                assert stored(con, "r1", row) == spooled(run_dir, row)
            (request,) = stored(con, "r1", "request")
    assert request["text"] == text.encode("utf-8", "replace").decode()
    assert request["output_token_ids"] == tokens
    assert request["first_token_ns"] == first


def test_a_running_run_is_followed_to_its_end(runs: Path, database: Database) -> None:
    seen: list[tuple[str, str, int]] = []
    runs.mkdir()
    collector = Collector(
        runs, database, lambda run, row, batch: seen.append((run, row, batch.num_rows)), discover_s=0.05
    ).start()
    run_dir = make_run(runs, "r1")
    collector.notify("r1")
    with Recorder(run_dir) as recorder:
        for i in range(100):
            record_step(recorder, i)
            if i == 50:
                wait_for(
                    lambda: count(database, "iterations") == 51, "the first half did not arrive while the run went on"
                )
    set_status(run_dir, "finished")
    with database.read() as con:
        wait_for(lambda: (queries.run(con, "r1") or {}).get("figures") is not None, "the run was not completed")
    collector.stop()
    assert count(database, "slices") == 400
    assert sum(n for run, row, n in seen if row == "slice") == 400, "the live feed saw another number of rows"
    assert collector.problem is None


def test_a_finished_run_larger_than_what_is_read_at_once_arrives_whole(
    runs: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.tail.MAX_PENDING_BYTES", 2000)
    run_dir = record_run(runs, "r1", steps=200)
    collector = Collector(runs, database, discover_s=0.05).start()
    with database.read() as con:
        wait_for(lambda: (queries.run(con, "r1") or {}).get("figures") is not None, "the run was not completed")
        collector.stop()
        for row in TABLES:
            assert stored(con, "r1", row) == spooled(run_dir, row)
        assert queries.run(con, "r1")["problem"] is None
    assert collector.problems == {}


def test_rows_and_position_are_committed_together_or_not_at_all(runs: Path, database: Database) -> None:
    record_run(runs, "r1")
    with database.read() as con:
        con.execute(
            "ALTER TABLE slices RENAME TO hidden"
        )  # the insert into slices fails in the middle of the transaction
        with pytest.raises(duckdb.Error):
            Collector(runs, database).ingest_once("r1")
        for table in ("iterations", "decisions", "blocks", "requests", "run_events", "spool_positions", "runs"):
            assert count(database, table) == 0, table
        con.execute("ALTER TABLE hidden RENAME TO slices")
    Collector(runs, database).ingest_once("r1")
    assert count(database, "slices") == 200


def test_a_database_that_refuses_is_a_problem_and_then_recovers(runs: Path, database: Database) -> None:
    record_run(runs, "r1")
    with database.read() as con:
        con.execute("ALTER TABLE slices RENAME TO hidden")
        collector = Collector(runs, database, discover_s=0.05).start()
        wait_for(lambda: collector.problem is not None, "nothing was said of the failing database")
        con.execute("ALTER TABLE hidden RENAME TO slices")
        wait_for(lambda: count(database, "slices") == 200, "the rows did not arrive after the database recovered")
    collector.stop()
    assert collector.problem is None
    assert count(database, "iterations") == 50


def test_a_live_feed_that_fails_does_not_hold_up_the_record(runs: Path, database: Database) -> None:
    record_run(runs, "r1")

    def fail(run: str, row: str, batch: pa.RecordBatch) -> None:
        raise RuntimeError("the page is gone")

    Collector(runs, database, fail).ingest_once("r1")
    assert count(database, "iterations") == 50


@pytest.mark.parametrize("where", [0.02, 0.5, 0.95])
def test_a_corrupt_spool_is_the_problem_of_its_run_alone(runs: Path, database: Database, where: float) -> None:
    bad, good = record_run(runs, "bad"), record_run(runs, "good")
    damage(spool_path(bad, "slice"), where)
    collector = Collector(runs, database)
    collector.ingest_once("bad")
    collector.ingest_once("good")
    said = collector.problems["bad"]
    assert "slice.arrow is damaged at byte" in said
    assert "batch" in said
    assert "good" not in collector.problems
    assert count(database, "slices", "bad") < 200
    assert count(database, "iterations", "bad") == 50, "the other files of the run are whole"
    with database.read() as con:
        assert stored(con, "good", "slice") == spooled(good, "slice")
        run = queries.run(con, "bad")
        assert run is not None
        assert run["problem"] == said
        assert "telemetry damaged" in run["labels"]


def test_a_status_that_is_no_json_does_not_stop_the_rows(runs: Path, database: Database) -> None:
    run_dir = record_run(runs, "r1")
    (run_dir / "status.json").write_text("{half")
    Collector(runs, database).ingest_once("r1")
    assert count(database, "iterations") == 50


def test_a_run_of_an_older_version_lacks_a_column_and_is_read(runs: Path, database: Database) -> None:
    run_dir = make_run(runs, "r1", "finished")
    with Recorder(run_dir) as recorder:
        recorder.iteration(**iteration_values(0))
    path = spool_path(run_dir, "iteration")
    (batch,) = pa.ipc.open_stream(path.read_bytes()).read_all().to_batches()
    path.unlink()
    older = batch.drop_columns(["graph_size", "bytes"]).append_column("from_the_future", pa.array([1]))
    writer = SpoolWriter(path, older.schema)
    writer.write(older)
    writer.close()
    Collector(runs, database).ingest_once("r1")
    with database.read() as con:
        (row,) = stored(con, "r1", "iteration")
    assert row["graph_size"] is None
    assert row["bytes"] == 0, "what was not counted then"
    assert row["end_ns"] == 10_000_000


def test_the_runs_table_tells_what_spec_status_and_rows_say(runs: Path, database: Database) -> None:
    run_dir = record_run(runs, "r1")
    set_status(run_dir, "failed", error={"kind": "io", "message": "no"}, labels=["unfinished"], ended_unix_ns=9)
    Collector(runs, database).ingest_once("r1")
    with database.read() as con:
        run = queries.run(con, "r1")
        assert [r["run_id"] for r in queries.runs(con)] == ["r1"]
        assert queries.run(con, "nobody") is None
        assert queries.summary(con, "nobody") is None
    assert run is not None
    assert run["state"] == "failed"
    assert run["scenario"] == "starter"
    assert run["error"] == {"kind": "io", "message": "no"}
    assert run["labels"] == ["random weights", "unfinished"]
    assert run["peaks"] == {"flops_per_s": 1e12, "bytes_per_s": 1e11}
    assert run["ended_unix_ns"] == 9
    assert "secret" not in json.dumps(run), "prompts do not belong into the runs table"


def test_a_deleted_run_leaves_the_index_and_a_restored_one_comes_back(
    runs: Path, database: Database, tmp_path: Path
) -> None:
    record_run(runs, "r1")
    record_run(runs, "r2")
    collector = Collector(runs, database, discover_s=0.02).start()
    wait_for(
        lambda: count(database, "slices") == 200 and count(database, "slices", "r2") == 200, "the runs did not arrive"
    )
    (runs / "r1").rename(tmp_path / "trash")
    wait_for(lambda: count(database, "slices") == 0, "the deleted run stayed")
    (tmp_path / "trash").rename(runs / "r1")
    wait_for(lambda: count(database, "slices") == 200, "the restored run did not come back")
    collector.stop()
    assert count(database, "slices", "r2") == 200


def test_reindex_rebuilds_a_destroyed_database(runs: Path, tmp_path: Path) -> None:
    for run_id in ("r1", "r2"):
        record_run(runs, run_id)
    path = tmp_path / "servescope.duckdb"
    path.write_bytes(os.urandom(100_000))
    steps: list[tuple[int, int, str]] = []
    assert reindex(path, runs, lambda *step: steps.append(step)) == {}
    assert steps == [(0, 2, "r1"), (1, 2, "r2"), (2, 2, "")]
    with Database(path) as database:
        assert count(database, "slices", "r1") == count(database, "slices", "r2") == 200
        assert Collector(runs, database).ingest_once("r1") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "servescope.duckdb"]


def test_reindex_leaves_a_database_in_use_alone(runs: Path, database: Database) -> None:
    record_run(runs, "r1")
    with pytest.raises(StoreError, match="in use"):
        reindex(database.path, runs)
    assert count(database, "slices") == 0


def test_a_run_whose_process_is_gone_is_crashed(runs: Path, database: Database) -> None:
    run_dir = make_run(runs, "r1", "running", pid=2**22 + 1, labels=["random weights"])
    assert end_orphan(run_dir)
    status = read_status(run_dir)
    assert status["state"] == "crashed"
    assert status["error"]["kind"] == "crashed"
    assert status["labels"] == ["random weights", "unfinished"]
    assert not end_orphan(run_dir), "once is enough"


def test_a_run_whose_end_was_asked_for_is_cancelled_when_its_process_is_gone(runs: Path) -> None:
    run_dir = make_run(runs, "r1", "running", pid=2**22 + 1)
    ask_for_end(run_dir)
    assert end_orphan(run_dir)
    status = read_status(run_dir)
    assert (status["state"], status.get("error")) == ("cancelled", None)


def test_a_reused_pid_does_not_keep_a_dead_run_alive(runs: Path) -> None:
    run_dir = make_run(runs, "r1", "running", process_start_ticks=1)  # this process's pid, another start
    assert not is_alive(read_status(run_dir))
    assert end_orphan(run_dir)


@pytest.mark.parametrize("state", ["queued", "finished", "failed", "cancelled"])
def test_runs_that_are_not_under_way_do_not_crash(runs: Path, state: str) -> None:
    assert not end_orphan(make_run(runs, "r1", state, pid=2**22 + 1))


def test_a_run_that_is_alive_does_not_crash(runs: Path, database: Database) -> None:
    make_run(runs, "r1", "running")
    assert Collector(runs, database).end_orphans() == []


def test_the_collector_marks_a_crash_by_itself(runs: Path, database: Database) -> None:
    run_dir = record_run(runs, "r1")
    set_status(run_dir, "running", pid=2**22 + 1)
    collector = Collector(runs, database, discover_s=0.02).start()
    wait_for(lambda: read_status(run_dir)["state"] == "crashed", "the crash was not noticed")
    with database.read() as con:
        wait_for(lambda: (queries.run(con, "r1") or {}).get("state") == "crashed", "the database did not hear of it")
    collector.stop()


def test_a_full_disk_under_the_database_delays_rows_but_loses_none(tmp_path: Path) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.decode().strip()}")
    try:
        run_dir = make_run(tmp_path / "runs", "r1")
        noise = np.random.default_rng(0).integers(0, 2**31 - 1, (600, 256))
        with Recorder(run_dir) as recorder:
            for i in range(600):
                recorder.slices(i, request=noise[i], kind=1, tokens=noise[i], context_len=noise[i], itl_ns=noise[i])
        set_status(run_dir, "finished")
        with Database(disk / "servescope.duckdb") as database:
            filler = disk / "filler"
            usage = os.statvfs(disk)
            filler.write_bytes(bytes(usage.f_bavail * usage.f_frsize - 65536))
            collector = Collector(tmp_path / "runs", database).start()
            wait_for(lambda: "No space left" in (collector.problem or ""), "the full disk was not reported")
            filler.unlink()
            wait_for(lambda: count(database, "slices") == 600 * 256, "the rows did not arrive once there was space")
            wait_for(lambda: collector.problem is None, "the problem outlived its cause")
            collector.stop()
            with database.read() as con:
                assert [r["request"] for r in stored(con, "r1", "slice")] == noise.flatten().tolist()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_after_a_fatal_error_the_database_is_opened_again(runs: Path, database: Database) -> None:
    record_run(runs, "r1")
    collector = Collector(runs, database)
    opened = database._con

    def refuse(con: duckdb.DuckDBPyConnection) -> None:
        raise duckdb.FatalException("FATAL Error: database has been invalidated")

    collector._con = database.cursor()
    collector._guarded(refuse)
    assert "invalidated" in (collector.problem or "")
    assert database._con is not opened
    collector._guarded(collector._discover)
    collector._guarded(collector._commit_all)
    assert count(database, "slices") == 200
