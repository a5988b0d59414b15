"""kill -9 of the writer, of the ingester, of both, at random moments: the database ends up with what the spool has, once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from row_maker import make_run, spooled, stored

from store import queries
from store.database import Database
from store.ingest import Collector
from store.schema import TABLES

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("SERVESCOPE_SOAK_ROUNDS", "1"))
RUN = "r1"


class Processes:
    """Starts the two programs and sees that none outlives the test."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.database = folder / "runs", folder / "servescope.duckdb"
        self._running: list[subprocess.Popen] = []

    def writer(self) -> subprocess.Popen:
        return self._start("spool_writer.py", self.runs / RUN)

    def ingester(self) -> subprocess.Popen:
        return self._start("collecting.py", self.runs, self.database)

    def _start(self, program: str, *arguments: Path) -> subprocess.Popen:
        env = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
        command = [sys.executable, str(HERE / program), *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().endswith(b"ing\n")
        return process

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    make_run(started.runs, RUN)
    yield started
    started.end()


def finish(process: subprocess.Popen) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def assert_database_is_the_spool(processes: Processes, state: str) -> None:
    """Ingest what is left as the next start would, then compare every row of every type, in order."""
    with Database(processes.database) as database, database.read() as con:
        collector = Collector(processes.runs, database)
        collector.end_orphans()
        collector.ingest_once(RUN)
        assert collector.problems == {}
        assert collector.ingest_once(RUN) == 0
        for row in TABLES:
            assert stored(con, RUN, row) == spooled(processes.runs / RUN, row), row
        run = queries.run(con, RUN)
        assert run is not None
        assert run["state"] == state
        iterations = [r["iteration"] for r in stored(con, RUN, "iteration")]
        assert iterations == list(range(len(iterations)))


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killing_the_writer_loses_nothing_the_spool_had(processes: Processes, seed: int) -> None:
    ingester, writer = processes.ingester(), processes.writer()
    time.sleep(random.Random(seed).uniform(0.05, 1.0))
    kill(writer)
    time.sleep(random.Random(seed + 100).uniform(0.0, 0.3))
    finish(ingester)
    assert_database_is_the_spool(processes, "crashed")


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killing_the_ingester_loses_and_doubles_nothing(processes: Processes, seed: int) -> None:
    moments = random.Random(seed)
    writer = processes.writer()
    for _ in range(2):
        ingester = processes.ingester()
        time.sleep(moments.uniform(0.02, 0.6))
        kill(ingester)
    finish(writer)
    assert_database_is_the_spool(processes, "finished")


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killing_both_loses_and_doubles_nothing(processes: Processes, seed: int) -> None:
    moments = random.Random(seed)
    ingester, writer = processes.ingester(), processes.writer()
    time.sleep(moments.uniform(0.05, 1.0))
    for process in moments.sample([writer, ingester], 2):
        process.kill()
    kill(writer)
    kill(ingester)
    assert_database_is_the_spool(processes, "crashed")
