"""One run's fault is that run's problem: the collector goes on, the others get in, and a collector that is gone is said."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from row_maker import make_run, record_run, set_status, spooled, stored

from store import queries
from store.database import Database
from store.ingest import Collector
from store.snapshot import export_snapshot
from store.tail import RunTail
from telemetry.arrow import schema
from telemetry.damage import damage_of, spool_sizes
from telemetry.recorder import Recorder
from telemetry.spool import SpoolReader, SpoolWriter, spool_path
from telemetry.status import read_status


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def database(tmp_path: Path) -> Any:
    with Database(tmp_path / "db.duckdb") as database:
        yield database


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def row_of(database: Database, run_id: str) -> dict[str, Any]:
    with database.read() as con:
        return queries.run(con, run_id) or {}


@pytest.mark.parametrize(
    "error", [ValueError("no such thing"), duckdb.ConversionException("out of range"), KeyError("x")]
)
@pytest.mark.parametrize("step", ["read", "insert", "complete_run"])
def test_a_run_that_cannot_be_stored_stops_neither_the_collector_nor_the_others(
    runs: Path, database: Database, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    right = getattr(RunTail, step)

    def fail(self: RunTail, *args: Any, **kwargs: Any) -> Any:
        if self.run_id == "bad":
            raise error
        return right(self, *args, **kwargs)

    monkeypatch.setattr(RunTail, step, fail)
    record_run(runs, "bad", steps=10)
    collector = Collector(runs, database, discover_s=0.05).start()
    record_run(runs, "good", steps=10)
    collector.notify("good")
    wait_for(lambda: row_of(database, "good").get("figures") and row_of(database, "bad").get("problem"))
    assert collector.problem is None, "the database is well"
    collector.stop()
    assert "cannot be stored" in collector.problems["bad"]
    assert "telemetry damaged" in row_of(database, "bad")["labels"]


def test_a_collector_that_is_gone_is_said(runs: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.mkdir()
    collector = Collector(runs, database, discover_s=0.05).start()
    assert collector.problem is None

    def die(self: Collector) -> list[Path]:
        raise SystemExit

    monkeypatch.setattr(Collector, "run_dirs", die)
    wait_for(lambda: collector.problem is not None)
    assert "The collector has stopped" in str(collector.problem)


def test_a_fault_of_ours_is_said_and_the_collector_tries_again(
    runs: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_run(runs, "r1", steps=10)
    right = Collector.run_dirs
    monkeypatch.setattr(Collector, "run_dirs", lambda self: 1 / 0)
    collector = Collector(runs, database, discover_s=0.05).start()
    wait_for(lambda: collector.problem is not None)
    monkeypatch.setattr(Collector, "run_dirs", right)
    wait_for(lambda: row_of(database, "r1").get("figures"))
    wait_for(lambda: collector.problem is None)
    collector.stop()


def test_facts_that_cannot_be_read_leave_the_rest_of_the_run(runs: Path, database: Database) -> None:
    run_dir = make_run(runs, "r1")
    with Recorder(run_dir) as recorder:
        recorder.run(
            "start", "running", peaks={"flops_per_s": "fast"}, model={"name": "tiny"}, environment="[" * 50_000
        )
    set_status(run_dir, "finished")
    collector = Collector(runs, database)
    collector.ingest_once("r1")
    row = row_of(database, "r1")
    assert row["model"] == {"name": "tiny"}
    assert row["peaks"] is None
    assert row["environment"] is None
    assert "run.peaks cannot be read: flops_per_s" in row["problem"]


def test_a_spec_that_cannot_be_read_is_named(runs: Path, database: Database) -> None:
    run_dir = record_run(runs, "r1", steps=3)
    (run_dir / "spec.json").write_text('{"scenario": ["x"]}')
    collector = Collector(runs, database)
    collector.ingest_once("r1")
    assert "spec.json cannot be read: scenario" in collector.problems["r1"]
    assert row_of(database, "r1")["figures"] is not None


def stated(run_dir: Path) -> None:
    """What a writer of this version states at its end."""
    set_status(run_dir, "finished", spool=spool_sizes(run_dir))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_after_a_batch(path: Path) -> None:
    """Cut where a batch ends, as if nothing had ever followed."""
    first = next(iter(SpoolReader(path).read()))
    path.write_bytes(path.read_bytes()[: first.offset])


@pytest.mark.parametrize("harm", [cut, cut_after_a_batch, Path.unlink])
@pytest.mark.parametrize("when", ["before it is stored", "after it was stored"])
def test_a_finished_run_whose_spool_is_cut_or_gone_says_telemetry_damaged(
    runs: Path, database: Database, harm: Callable[[Path], None], when: str
) -> None:
    run_dir = record_run(runs, "r1", steps=30)
    stated(run_dir)
    assert damage_of(run_dir, read_status(run_dir)) == {}
    if when == "after it was stored":
        Collector(runs, database).ingest_once("r1")
        assert "telemetry damaged" not in row_of(database, "r1")["labels"]
    harm(spool_path(run_dir, "slice"))
    collector = Collector(runs, database)
    collector.ingest_once("r1")
    assert "telemetry damaged" in row_of(database, "r1")["labels"]
    assert "slice.arrow" in collector.problems["r1"]
    assert list(damage_of(run_dir, read_status(run_dir))) == ["slice"]
    with pytest.raises(Exception, match=r"slice\.arrow"):
        export_snapshot(runs.parent / "out.servescope", [run_dir])


def test_a_run_of_an_earlier_version_that_stated_no_sizes_is_told_by_its_ends(runs: Path) -> None:
    run_dir = record_run(runs, "r1", steps=30)
    assert damage_of(run_dir, read_status(run_dir)) == {}
    cut_after_a_batch(spool_path(run_dir, "block"))
    assert damage_of(run_dir, read_status(run_dir)) == {"block": "block.arrow is cut off"}
    set_status(run_dir, "crashed")
    assert damage_of(run_dir, read_status(run_dir)) == {}, "a killed writer closes nothing"


def test_a_run_recorded_before_a_column_existed_is_stored_and_exported(runs: Path, database: Database) -> None:
    run_dir = record_run(runs, "r1", steps=5)
    path = spool_path(run_dir, "iteration")
    batches = [item.batch for item in SpoolReader(path).read()]
    path.unlink()
    earlier = [b.drop_columns(["draft_ns", "blocks_spared", "kv_bytes_spared"]) for b in batches]
    writer = SpoolWriter(path, earlier[0].schema)
    for batch in earlier:
        writer.write(batch)
    writer.close()
    assert len(spooled(run_dir, "iteration")[0]) == len(schema("iteration")) - 3
    Collector(runs, database).ingest_once("r1")
    with database.read() as con:
        assert {row["draft_ns"] for row in stored(con, "r1", "iteration")} == {0}
    assert export_snapshot(runs.parent / "out.servescope", [run_dir]) > 0


def test_a_folder_that_is_no_run_id_is_no_run(runs: Path, database: Database) -> None:
    record_run(runs, "r1", steps=2)
    for name in ("Not A Run", "x" * 65):
        (runs / name).mkdir()
        (runs / name / "spec.json").write_text(json.dumps({}))
    assert [path.name for path in Collector(runs, database).run_dirs()] == ["r1"]


def test_a_sparse_file_and_a_pipe_hold_no_reader_up(runs: Path, database: Database) -> None:
    import os

    run_dir = record_run(runs, "r1", steps=5)
    with spool_path(run_dir, "slice").open("r+b") as file:
        file.truncate(1 << 40)
    spool_path(run_dir, "block").unlink()
    os.mkfifo(spool_path(run_dir, "block"))
    collector = Collector(runs, database)
    collector.ingest_once("r1")
    assert "telemetry damaged" in row_of(database, "r1")["labels"]
    assert len(stored_of(database, "iteration")) == 5


def stored_of(database: Database, row: str) -> list[dict[str, Any]]:
    with database.read() as con:
        return stored(con, "r1", row)
