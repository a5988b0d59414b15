"""A database in memory with the rows of some runs: the same ingest and the same queries as in the lab, whoever has its
database open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb

from store.database import Database
from store.ingest import Collector


class Aside(NamedTuple):
    """What was read."""

    con: duckdb.DuckDBPyConnection
    problems: Mapping[str, str]
    """What is wrong with the recording of a run that could not be read whole, by run."""


@contextlib.contextmanager
def rows_aside(runs_dir: Path, run_ids: Iterable[str]) -> Iterator[Aside]:
    """The runs' own spools, read once, for the length of the block."""
    with Database(Path(":memory:")) as database:
        collector = Collector(runs_dir, database)
        for run_id in dict.fromkeys(run_ids):
            collector.ingest_once(run_id)
        with database.read() as con:
            yield Aside(con, collector.problems)
