"""Somebody's SELECT can do nothing but select."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store.database import Database
from store.errors import StoreError
from store.select import Stop, python_columns, safe_select


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "servescope.duckdb") as opened:
        yield opened


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
        "FROM checkpoint()",
        "SELECT * FROM system.main.checkpoint()",
        "FROM force_checkpoint()",
        "SELECT 1 WHERE EXISTS (FROM checkpoint())",
        "SELECT * FROM query('FROM checkpoint()')",
        "SELECT * FROM query_table('runs')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "FROM truncate_duckdb_logs()",
        "FROM duckdb_secrets()",
        "SELECT sleep_ms(1)",
        "SELECT setseed(0.5)",
        "SELECT " + "(" * 900 + "1" + ")" * 900 + " FROM runs WHERE " + "NOT " * 900 + "true",
    ],
)
def test_only_a_select_on_our_tables_runs(database: Database, sql: str) -> None:
    with database.read() as con:
        with pytest.raises(StoreError) as caught:
            safe_select(con, sql)
        assert caught.value.kind == "sql"
        assert con.execute("SELECT count(*) FROM runs").fetchall() == [(0,)]


def test_a_call_that_acts_is_refused_by_name(database: Database) -> None:
    with database.read() as con, pytest.raises(StoreError, match=r"checkpoint\(\) cannot stand in a FROM clause"):
        safe_select(con, "SELECT 1 UNION SELECT * FROM Checkpoint()")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT unnest([1, 2])",
        "SELECT count(*) FROM range(3) r, duckdb_tables() t",
        "WITH steps AS (FROM iterations) SELECT avg(end_ns - start_ns) OVER (ORDER BY iteration) FROM steps",
        "DESCRIBE iterations",
        "SUMMARIZE runs",
        "SELECT max_by(run_id, created_unix_ns) FROM runs",
        "SELECT quantile_cont(itl_ns, 0.99) FILTER (itl_ns > 0) FROM slices GROUP BY request",
        "SELECT column_name FROM information_schema.columns",
    ],
)
def test_what_only_reads_runs(database: Database, sql: str) -> None:
    with database.read() as con:
        safe_select(con, sql)


def test_moments_that_python_cannot_hold_come_as_text(database: Database) -> None:
    sql = "SELECT DATE '12000-01-01' a, 'infinity'::TIMESTAMP b, [DATE '10000-01-01'] c, DATE '2026-11-26' d, 1 e, 2 e"
    with database.read() as con:
        columns = python_columns(con, safe_select(con, sql))
    assert columns == [["12000-01-01"], ["infinity"], ["[10000-01-01]"], [datetime.date(2026, 11, 26)], [1], [2]]


def test_no_extension_is_ever_loaded_or_fetched(database: Database) -> None:
    with database.read() as con:
        settings = "SELECT name, value FROM duckdb_settings() WHERE name LIKE 'auto%_known_extensions'"
        assert {value for _, value in con.execute(settings).fetchall()} == {"false"}
        with pytest.raises(StoreError):
            safe_select(con, "SELECT ST_Point(1, 2)")  # of an extension that DuckDB knows where to get


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


def test_one_query_is_stopped_and_no_other(database: Database) -> None:
    stop = Stop()
    with database.read() as con, ThreadPoolExecutor(2) as pool:
        long = pool.submit(safe_select, con, "SELECT count(*) FROM range(1000000000000)", stop=stop, timeout_s=60)
        other = pool.submit(safe_select, con, "SELECT count(*) AS n FROM range(10000000)")
        while not long.done():
            stop()
            time.sleep(0.01)
        with pytest.raises(StoreError, match="The query was stopped"):
            long.result()
        assert other.result().to_pylist() == [{"n": 10_000_000}]


def test_a_query_that_was_stopped_before_it_began_never_runs(database: Database) -> None:
    stop = Stop()
    stop()
    with database.read() as con, pytest.raises(StoreError, match="The query was stopped"):
        safe_select(con, "SELECT 1", stop=stop)
