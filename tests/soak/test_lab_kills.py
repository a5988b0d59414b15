"""kill -9 of the engine, of the lab server and of both, at random moments, with real runs.

Afterwards: every row that the spool holds is in the database once, the run has an honest end, and the lab goes on with its queue.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.home import Home
from app.runs.folder import create_run
from store.database import Database
from store.schema import TABLES, quoted
from telemetry.process import identity_in, identity_of, is_alive
from telemetry.rows import ROW_TYPES, columns
from telemetry.spool import SpoolReader, spool_path
from telemetry.status import read_status
from tests.app.lab_process import LabProcess, end, own_children_of
from tests.app.small_runs import endless_spec, small_spec, wait_for, wait_for_state

ROUNDS = int(os.environ.get("SERVESCOPE_SOAK_ROUNDS", "1"))
RUN, NEXT = "killed", "next"
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("seed", range(ROUNDS))]


class Scene:
    """A lab that serves a long run with a short one queued behind it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.lab = LabProcess(home).start()
        for spec in (endless_spec(RUN), small_spec(NEXT)):
            create_run(home, spec)
            self.lab.call("POST", "/runs", {"run_id": spec.run_id})

    def engine(self) -> dict[str, Any]:
        """The engine process of the long run, once it is known."""
        return identity_in(wait_for_state(self.home, RUN, "starting", "loading", "running"))

    def wait(self, moments: random.Random) -> None:
        """Up to a second after the run began to serve; one time in four while it is still being loaded."""
        if moments.random() < 0.75:
            wait_for_state(self.home, RUN, "running")
        time.sleep(moments.uniform(0.0, 1.0))

    def restart(self) -> None:
        self.lab = LabProcess(self.home).start()

    def close(self) -> None:
        engine = read_status(self.home.run_dir(RUN))
        pids = own_children_of(self.lab.pid)
        self.lab.stop()
        end(*[pid for pid in pids if is_alive(identity_of(pid))], *([engine["pid"]] if is_alive(engine) else []))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(Home(tmp_path / "home"))
    yield scene
    scene.close()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def assert_nothing_lost_and_nothing_twice(home: Home) -> None:
    """The database, opened after the lab was closed, holds the spool row for row, in order."""
    with Database(home.database) as database, database.read() as con:
        for run_id in (RUN, NEXT):
            for row, table in TABLES.items():
                names = ", ".join(quoted(name) for name in columns(ROW_TYPES[row]))
                stored = con.sql(
                    f"SELECT {names} FROM {table} WHERE run_id = $run ORDER BY rowid", params={"run": run_id}
                )
                assert same(stored.to_arrow_table(), spooled(home, run_id, row)), (run_id, row)
        gaps = con.sql(
            "SELECT count(*) - (max(iteration) + 1), count(*) - count(DISTINCT iteration) FROM iterations WHERE run_id = $run",
            params={"run": RUN},
        ).fetchall()
        assert gaps in ([(0, 0)], [(None, 0)])
        states = con.sql("SELECT run_id, state FROM runs ORDER BY run_id").fetchall()
        assert states == [(run_id, read_status(home.run_dir(run_id))["state"]) for run_id in (RUN, NEXT)]


def spooled(home: Home, run_id: str, row: str) -> pa.Table | None:
    batches = [item.batch for item in SpoolReader(spool_path(home.run_dir(run_id), row)).read()]
    return pa.Table.from_batches(batches) if batches else None


def same(stored: pa.Table, spooled: pa.Table | None) -> bool:
    if spooled is None:
        return stored.num_rows == 0
    if stored.num_rows != spooled.num_rows:
        return False
    return all(
        stored[name].to_pylist() == spooled[name].cast(stored[name].type).to_pylist() for name in stored.column_names
    )


def close_and_compare(scene: Scene) -> None:
    wait_for_state(scene.home, NEXT, "finished")
    code, errors = scene.lab.stop()
    assert code == 0, errors
    assert "Traceback" not in errors
    assert_nothing_lost_and_nothing_twice(scene.home)


def test_killing_the_engine_marks_the_run_crashed_and_the_queue_goes_on(scene: Scene, seed: int) -> None:
    moments = random.Random(seed)
    engine = scene.engine()
    scene.wait(moments)
    kill(engine["pid"])
    error = wait_for_state(scene.home, RUN, "crashed")["error"]
    assert "SIGKILL" in error["message"]
    close_and_compare(scene)


def test_killing_the_lab_leaves_the_engine_at_work_and_the_next_lab_takes_it_over(scene: Scene, seed: int) -> None:
    moments = random.Random(1000 + seed)
    engine = scene.engine()
    wait_for_state(scene.home, RUN, "running")
    scene.wait(moments)
    scene.lab.kill()
    iterations = read_status(scene.home.run_dir(RUN))["progress"].get("iterations", 0)
    wait_for(lambda: read_status(scene.home.run_dir(RUN))["progress"].get("iterations", 0) > iterations)
    scene.restart()
    assert is_alive(engine)
    wait_for(lambda: RUN in scene.lab.call("GET", "/status")["running"])
    assert scene.lab.call("GET", "/status")["queued"] == [NEXT]
    scene.lab.call("POST", f"/runs/{RUN}/cancel")
    wait_for_state(scene.home, RUN, "cancelled")
    close_and_compare(scene)


@pytest.mark.rare
def test_killing_both_marks_the_run_crashed_and_the_next_lab_goes_on_with_the_queue(scene: Scene, seed: int) -> None:
    moments = random.Random(2000 + seed)
    engine = scene.engine()
    scene.wait(moments)
    for kill_one in moments.sample([lambda: kill(engine["pid"]), scene.lab.kill], 2):
        kill_one()
        time.sleep(moments.choice([0.0, 0.0, 0.02]))
    scene.restart()
    wait_for_state(scene.home, RUN, "crashed")
    close_and_compare(scene)


def test_a_lab_that_is_killed_takes_its_waiting_worker_with_it(tmp_path: Path, seed: int) -> None:
    home = Home(tmp_path / "home")
    lab = LabProcess(home).start()
    moments = random.Random(3000 + seed)
    time.sleep(moments.uniform(0.0, 2.0))
    spares = own_children_of(lab.pid)
    assert spares
    identities = [identity_of(pid) for pid in spares]
    lab.kill()
    wait_for(lambda: not any(is_alive(identity) for identity in identities))
