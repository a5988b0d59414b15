"""The database from outside the lab: bring it up to date, ask it, rebuild it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.errors import LabError
from app.home import Home
from app.locks import database_lock, running_lab
from app.rights import Right, needs
from app.server.client import call
from store.database import Database
from store.ingest import Collector
from store.reindex import RunsDone
from store.reindex import reindex as rebuild_database
from store.select import python_columns, safe_select, stop_selects

LOOK_S = 0.02
Rows = tuple[list[str], list[tuple[Any, ...]]]


def ingest_all(home: Home, *, wait_s: float = 20.0) -> None:
    """Take every run on disk into the database. Raises ``LabError`` when another process keeps it."""
    with database_lock(home, wait_s), Database(home.database) as database:
        _ingest(home, database)


def select(home: Home, query: str, limit: int) -> Rows:
    """Column names and rows of one SELECT, asked of the lab if one is up.

    Raises ``LabError`` or ``StoreError``: not exactly one SELECT, an error in it, or the database cannot be opened.
    """
    lab = running_lab(home)
    if lab is not None:
        answer = call(lab, "POST", "/sql", {"query": query, "limit": limit})
        return answer["columns"], [tuple(row) for row in answer["rows"]]
    with database_lock(home), Database(home.database) as database:
        _ingest(home, database)
        return _heard(lambda: select_from(database, query, limit))


def _heard(ask: Callable[[], Rows]) -> Rows:
    """The answer, asked for in a thread: DuckDB lets a Ctrl-C wait for seconds where it works in the thread that hears
    it.
    """
    with ThreadPoolExecutor(1, "select") as pool:
        answer = pool.submit(ask)
        try:
            return answer.result()
        except KeyboardInterrupt:
            while not answer.done():
                stop_selects()
                time.sleep(LOOK_S)
            raise


@needs(Right.SQL)
def select_from(database: Database, query: str, limit: int) -> Rows:
    """Column names and rows of one SELECT over an open database. Raises ``StoreError``."""
    with database.read() as cursor:
        table = safe_select(cursor, query, max_rows=limit)
        columns = python_columns(cursor, table)
    return table.column_names, list(zip(*columns, strict=True))


def rebuild(home: Home, progress: RunsDone | None = None) -> dict[str, str]:
    """Build the database anew; returns the runs that could not be read whole, and why.

    Raises ``LabError`` while a lab is up, ``StoreError`` when the new database cannot be written.
    """
    lab = running_lab(home)
    if lab is not None:
        raise LabError(
            "lab-is-up",
            field="lab",
            value=lab.url,
            message=f"The lab at {lab.url} has the database open.",
            mend="End the lab, then run servescope reindex again.",
        )
    with database_lock(home):
        return rebuild_database(home.database, home.runs, progress)


def _ingest(home: Home, database: Database) -> None:
    collector = Collector(home.runs, database)
    for run_dir in collector.run_dirs():
        collector.ingest_once(run_dir.name)
    collector.index_experiments()
