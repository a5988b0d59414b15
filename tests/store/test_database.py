"""Opening the database says what is wrong and what mends it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from store import migrations
from store.database import Database
from store.errors import StoreError
from store.schema import RUN_COLUMNS, TABLES, create_statements
from telemetry.rows import ROW_TYPES, columns

ROOT = Path(__file__).parents[2]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "servescope.duckdb") as opened:
        yield opened


def test_every_row_type_has_its_table_led_by_run_id(database: Database) -> None:
    with database.read() as con:
        for row, table in TABLES.items():
            names = [r[0] for r in con.execute(f"DESCRIBE {table}").fetchall()]
            assert names == ["run_id", *columns(ROW_TYPES[row])]


def test_a_second_owner_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "servescope.duckdb"
    script = f"from pathlib import Path; from store.database import Database; d = Database(Path({str(path)!r})); print('open', flush=True); input()"
    owner = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(StoreError) as caught:
            Database(path)
        assert caught.value.kind == "busy"
        assert f"process {owner.pid}" in caught.value.message
        assert caught.value.mend
    finally:
        owner.communicate("\n")


def test_one_process_opens_its_database_once(database: Database) -> None:
    with pytest.raises(StoreError, match="this process already"):
        Database(database.path)


@pytest.mark.parametrize("damage", ["text", "header", "middle"])
def test_a_damaged_database_names_the_mend(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "servescope.duckdb"
    with Database(path) as database, database.read() as con:
        con.execute("INSERT INTO iterations (run_id, iteration) SELECT 'r', range FROM range(200000)")
        con.execute("CHECKPOINT")
    whole = path.read_bytes()
    if damage == "text":
        path.write_text("this is not a database\n" * 1000)
    elif damage == "header":
        path.write_bytes(bytes(12288) + whole[12288:])
    else:
        path.write_bytes(whole[:12288] + os.urandom(len(whole) - 12288))
    with pytest.raises(StoreError) as caught:
        Database(path)
    assert caught.value.kind == "corrupt"
    assert str(path) in caught.value.message
    assert "servescope reindex" in caught.value.mend


def test_a_database_from_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "servescope.duckdb"
    with Database(path) as database, database.read() as con:
        con.execute("UPDATE schema_version SET version = 999")
    with pytest.raises(StoreError) as caught:
        Database(path)
    assert caught.value.kind == "newer"
    assert "version 999" in caught.value.message
    assert "reindex" in caught.value.mend


def test_a_migration_adds_a_column_and_keeps_the_rows(tmp_path: Path) -> None:
    con = duckdb.connect(str(tmp_path / "old.duckdb"))
    migrations.migrate(con)
    con.execute("INSERT INTO devices (run_id, time_ns) VALUES ('r', 7)")

    def add_fan_speed(cursor: duckdb.DuckDBPyConnection) -> None:
        cursor.execute("ALTER TABLE devices ADD COLUMN fan_speed FLOAT")

    newer = migrations.VERSION + 1
    for _ in range(2):  # the second time there is nothing to do
        migrations.migrate(con, version=newer, steps={migrations.VERSION: add_fan_speed})
    assert con.execute("SELECT time_ns, fan_speed FROM devices").fetchall() == [(7, None)]
    assert con.execute("SELECT version FROM schema_version").fetchall() == [(newer,)]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    con = duckdb.connect(str(tmp_path / "old.duckdb"))
    migrations.migrate(con)

    def half(cursor: duckdb.DuckDBPyConnection) -> None:
        cursor.execute("ALTER TABLE devices ADD COLUMN fan_speed FLOAT")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        migrations.migrate(con, version=migrations.VERSION + 1, steps={migrations.VERSION: half})
    assert "fan_speed" not in [r[0] for r in con.execute("DESCRIBE devices").fetchall()]
    assert con.execute("SELECT version FROM schema_version").fetchall() == [(migrations.VERSION,)]


def test_every_version_has_its_step() -> None:
    assert set(migrations.MIGRATIONS) == set(range(1, migrations.VERSION))
    assert len(create_statements()) == len(TABLES) + 4
    assert "run_id" in RUN_COLUMNS


def test_each_thread_reads_through_its_own_cursor(database: Database) -> None:
    answers: list[int] = []

    def ask() -> None:
        for _ in range(50):
            with database.read() as con:
                answers.append(con.execute("SELECT count(*) FROM runs").fetchall()[0][0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0] * 400


def test_checkpoint_folds_the_log_in(database: Database) -> None:
    with database.read() as con:
        con.execute("INSERT INTO iterations (run_id, iteration) SELECT 'r', range FROM range(100000)")
    log = database.path.with_name(database.path.name + ".wal")
    assert log.stat().st_size > 100_000
    assert database.checkpoint()
    assert not log.exists() or log.stat().st_size < 1000
