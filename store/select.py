"""Somebody's SELECT over the database: one statement that reads, within bounds, and cannot do anything else."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from store.errors import StoreError

TABLE_FUNCTIONS = frozenset(
    [
        "range",
        "generate_series",
        "unnest",
        "repeat",
        "repeat_row",
        "json_each",
        "json_tree",
        "histogram",
        "histogram_values",
        "summary",
        "duckdb_tables",
        "duckdb_columns",
        "duckdb_views",
        "duckdb_schemas",
        "duckdb_databases",
        "duckdb_functions",
        "duckdb_types",
        "duckdb_keywords",
        "duckdb_constraints",
        "duckdb_indexes",
        "pragma_table_info",
        "pragma_version",
    ]
)
"""What may stand in a FROM clause as a call; others act on the database, run text as SQL or read files."""

REFUSED_FUNCTIONS = frozenset(["sleep_ms", "setseed", "setval", "nextval", "currval", "write_log"])
"""Functions of a value that have effects or only pass time."""


_under_way: set[duckdb.DuckDBPyConnection] = set()


class Stop:
    """Ends one ``safe_select`` from another thread, before it begins or while it works."""

    def __init__(self) -> None:
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self.asked = False

    def __call__(self) -> None:
        self.asked = True
        if self._cursor is not None:
            with contextlib.suppress(duckdb.Error):
                self._cursor.interrupt()

    def watch(self, cursor: duckdb.DuckDBPyConnection | None) -> None:
        """From here on this is the cursor that works; None: nobody does.

        Raises:
            StoreError: the stop was asked for already.
        """
        self._cursor = cursor
        if cursor is not None and self.asked:
            raise _stopped()


def _stopped() -> StoreError:
    return StoreError("sql", "The query was stopped.", "")


def stop_selects() -> None:
    """End every ``safe_select`` of this process that is under way, from any thread; each raises ``StoreError``."""
    for cursor in list(_under_way):
        with contextlib.suppress(duckdb.Error):
            cursor.interrupt()


def safe_select(
    con: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[Any] = (),
    *,
    max_rows: int = 10_000,
    timeout_s: float = 10.0,
    stop: Stop | None = None,
) -> pa.Table:
    """Run somebody's SELECT: one statement, in a read-only transaction, no files, no network, at most ``max_rows``
    rows.

    A read-only transaction is what refuses ``WITH x AS (INSERT ...) SELECT``, which the parser calls a SELECT. Calls that act
    (``FROM checkpoint()``) do so in a read-only transaction too; they are refused by name before anything runs.

    Raises:
        StoreError: not exactly one SELECT, an error in it, too much memory, no end within ``timeout_s``, ``stop``, or ``stop_selects``.
    """
    cursor = con.cursor()
    stop = stop or Stop()
    try:
        stop.watch(cursor)
        try:
            statement = _one_select(cursor, sql)
        except StoreError as error:
            if stop.asked:  # what an interrupted parser says is not what is wrong
                raise _stopped() from error
            raise
        stop.watch(cursor)
        expired = threading.Event()

        def interrupt() -> None:
            expired.set()
            cursor.interrupt()

        timer = threading.Timer(timeout_s, interrupt)
        timer.start()
        _under_way.add(cursor)
        try:
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            return cursor.sql(statement, params=list(parameters) or None).limit(max_rows).to_arrow_table()
        except (duckdb.Error, pa.ArrowException) as error:
            if expired.is_set():
                raise StoreError(
                    "sql", f"The query was stopped after {timeout_s:g} s.", "Ask for less, or add a LIMIT."
                ) from error
            if type(error) is duckdb.InterruptException:
                raise _stopped() from error
            raise StoreError("sql", str(error), "") from error
        finally:
            _under_way.discard(cursor)
            timer.cancel()
            with contextlib.suppress(duckdb.Error):
                cursor.rollback()
    finally:
        stop.watch(None)
        cursor.close()


def _one_select(cursor: duckdb.DuckDBPyConnection, sql: str) -> str:
    try:
        statements = cursor.extract_statements(sql)
    except duckdb.Error as error:
        raise StoreError("sql", str(error), "") from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(s.type.name for s in statements) or "nothing"
        raise StoreError("sql", f"Only one SELECT can be run here; this is {kinds}.", "Write a single SELECT.")
    query = statements[0].query
    _refuse_calls_that_act(cursor, query)
    return query


def _refuse_calls_that_act(cursor: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        tree = json.loads(cursor.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])
    except (duckdb.Error, RecursionError) as error:
        raise StoreError("sql", "The query is nested too deeply.", "Write it with fewer levels.") from error
    if tree.get("error"):
        raise StoreError("sql", str(tree.get("error_message")), "Write a single SELECT.")
    for node in _nodes(tree):
        name = str(node.get("function_name", "")).lower()
        if name in REFUSED_FUNCTIONS:
            raise StoreError("sql", f"{name}() cannot be called here.", "Only functions that read are.")
        if node.get("type") == "TABLE_FUNCTION":
            called = str(node["function"].get("function_name", "")).lower()
            if called not in TABLE_FUNCTIONS:
                allowed = ", ".join(sorted(TABLE_FUNCTIONS))
                raise StoreError("sql", f"{called}() cannot stand in a FROM clause here.", f"These can: {allowed}.")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON value."""
    left = [tree]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield value
            left += value.values()
        elif isinstance(value, list):
            left += value


def python_columns(con: duckdb.DuckDBPyConnection, table: pa.Table) -> list[list[Any]]:
    """A table's columns as Python values; one with a moment that Python cannot hold (beyond year 9999, infinity) as DuckDB's text."""
    columns = []
    for index in range(table.num_columns):
        try:
            columns.append(table.column(index).to_pylist())
        except (OverflowError, ValueError):
            alone = pa.table({"value": table.column(index)})
            text = con.from_arrow(alone).project("CAST(value AS VARCHAR) AS value")
            columns.append([row[0] for row in text.fetchall()])
    return columns
