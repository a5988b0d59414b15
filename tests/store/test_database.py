"""Opening the database says what is wrong and what mends it; somebody's SELECT can do nothing but select."""

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
from store.database import Database, safe_select
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
            found = [r[0] for r in con.execute(f"DESCRIBE {table}").fetchall()]
            assert found == ["run_id", *columns(ROW_TYPES[row])]


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


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO runs (run_id) VALUES ('x')",
        "WITH x AS (INSERT INTO runs (run_id) VALUES ('x') RETURNING *) SELECT * FROM x",
        "DROP TABLE runs",
        "SELECT 1; SELECT 2",
        "",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "COPY runs TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.duckdb'",
        "INSTALL httpfs",
        "SET threads = 64",
        "PRAGMA database_list",
        "EXPORT DATABASE '/tmp/stolen'",
        "SELEC 1",
        "SELECT * FROM no_such_table",
    ],
)
def test_only_a_select_on_our_tables_runs(database: Database, sql: str) -> None:
    with database.read() as con:
        with pytest.raises(StoreError) as caught:
            safe_select(con, sql)
        assert caught.value.kind == "sql"
        assert con.execute("SELECT count(*) FROM runs").fetchall() == [(0,)]


def test_a_select_gets_its_rows_its_parameters_and_no_more_than_asked(database: Database) -> None:
    with database.read() as con:
        table = safe_select(
            con, "SELECT range AS n, ? AS who FROM range(1000000)", ["a'; DROP TABLE runs; --"], max_rows=3
        )
    assert table.to_pylist() == [{"n": n, "who": "a'; DROP TABLE runs; --"} for n in range(3)]


def test_a_runaway_query_is_stopped(database: Database) -> None:
    with database.read() as con:
        with pytest.raises(StoreError, match=r"stopped after 0\.3 s"):
            safe_select(con, "SELECT count(*) FROM range(10000000000) a, range(1000) b", timeout_s=0.3)
        assert safe_select(con, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


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
