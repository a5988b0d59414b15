"""Ending runs that somebody else serves: asked, then killed, with an honest state; a deleted run keeps nobody waiting."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from app.home import Home
from app.runs.folder import create_run
from app.runs.process import worker_environment
from app.runs.queue import RunQueue
from app.runs.settle import settle, settle_orphans
from telemetry.folder import TIERS_FOLDER
from telemetry.process import identity_of, is_alive
from telemetry.status import CANCEL_ASKED, read_status, state, write_status
from tests.app.lab_process import scenario_file, servescope
from tests.app.small_runs import small_spec, wait_for, wait_for_state

DEAF = "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
WITH_A_CHILD = "child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); child.wait()"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def deaf_worker() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that SIGTERM does not end, leader of its session as workers are, and the pid of its child."""
    worker = subprocess.Popen(
        [sys.executable, "-c", f"{DEAF}; {WITH_A_CHILD}"], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    yield worker, int(worker.stdout.readline())
    worker.kill()
    worker.wait()
    worker.stdout.close()


def served_by(home: Home, worker: subprocess.Popen[str], run_id: str = "theirs") -> Path:
    """A run that another living command line (here: this process's parent) looks after."""
    run_dir = create_run(home, small_spec(run_id), supervisor=identity_of(1))
    write_status(run_dir, state="running", **identity_of(worker.pid))
    return run_dir


def test_a_run_of_another_command_line_that_does_not_listen_is_killed_with_its_children_and_is_cancelled(
    home: Home, deaf_worker: tuple[subprocess.Popen[str], int]
) -> None:
    worker, child = deaf_worker
    run_dir = served_by(home, worker)
    whole = identity_of(child)
    queue = RunQueue(home, only="none", grace_s=0.3)
    assert queue.cancel("theirs")
    queue.tick()
    assert is_alive(identity_of(worker.pid)), "it was given no time"
    wait_for(lambda: queue.tick() or state(read_status(run_dir)) == "cancelled")
    assert not is_alive(identity_of(worker.pid))
    wait_for(lambda: not is_alive(whole))


def test_the_command_line_that_serves_it_calls_the_end_a_cancellation_too(
    home: Home, deaf_worker: tuple[subprocess.Popen[str], int]
) -> None:
    run_dir = served_by(home, deaf_worker[0])
    RunQueue(home, only="none").cancel("theirs")
    assert settle(run_dir, exit_code=-signal.SIGKILL, cancelled=False)["state"] == "cancelled"


def test_a_cancellation_is_called_one_where_the_disk_takes_no_note_of_it(
    home: Home, deaf_worker: tuple[subprocess.Popen[str], int]
) -> None:
    run_dir = served_by(home, deaf_worker[0])
    assert settle(run_dir, exit_code=-signal.SIGKILL, cancelled=True)["state"] == "cancelled"
    assert not (run_dir / CANCEL_ASKED).exists(), "nothing rests on the note"


def test_what_a_killed_worker_left_of_its_disk_tier_goes_when_the_run_is_settled(
    home: Home, deaf_worker: tuple[subprocess.Popen[str], int]
) -> None:
    run_dir = served_by(home, deaf_worker[0])
    (run_dir / TIERS_FOLDER).mkdir()
    (run_dir / TIERS_FOLDER / "0000000000000001.kv").write_bytes(b"keys and values")
    assert settle(run_dir, exit_code=-signal.SIGKILL, cancelled=False)["state"] == "crashed"
    assert not (run_dir / TIERS_FOLDER).exists()


def test_a_canceller_that_dies_leaves_its_wish_to_whoever_looks_next(home: Home) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as worker:
        run_dir = served_by(home, worker)  # type: ignore[arg-type]
        RunQueue(home, only="none").cancel("theirs")
        worker.kill()
        worker.wait()
    write_status(run_dir, supervisor={"pid": 2**22 + 1})
    settle_orphans(home)
    assert state(read_status(run_dir)) == "cancelled"


def test_a_supervisor_hears_of_a_wish_that_came_between_two_of_its_looks(home: Home) -> None:
    """Cancelled as queued by somebody else in the moment in which its own command line handed it to a worker."""
    queue = RunQueue(home, grace_s=5.0)
    run_id = queue.submit(small_spec(requests=4000, tokens=2000))
    queue.tick()
    RunQueue(home, only="none").cancel(run_id)
    wait_for(lambda: queue.tick() or not queue.running())
    assert state(read_status(home.run_dir(run_id))) == "cancelled"
    queue.stop()


class WaitingRun:
    """``servescope run`` that waits because the device is busy."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home = home
        self._device = FileLock(home.locks / "cpu.lock", thread_local=False)
        self._device.acquire(blocking=False)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "run", str(scenario_file(folder)), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
        )
        wait_for(lambda: home.run_ids())
        [self.run_id] = home.run_ids()
        wait_for_state(home, self.run_id, "queued")
        wait_for(lambda: (home.run_dir(self.run_id) / "spec.json").exists())

    def end(self) -> tuple[int, str, str]:
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._device.release()


@pytest.fixture
def waiting(home: Home, tmp_path: Path) -> Iterator[WaitingRun]:
    run = WaitingRun(home, tmp_path)
    yield run
    run.close()


def test_deleting_a_queued_run_ends_the_command_that_waits_for_it(home: Home, waiting: WaitingRun) -> None:
    assert servescope(home, "delete", waiting.run_id).returncode == 0
    code, output, errors = waiting.end()
    assert code == 1
    assert "was deleted while it waited" in errors
    assert f"servescope restore {waiting.run_id}" in errors
    assert json.loads(output)["error"]["kind"] == "run-deleted"
    assert "Traceback" not in errors


def test_cancelling_a_queued_run_of_another_command_line_ends_that_command(home: Home, waiting: WaitingRun) -> None:
    done = servescope(home, "cancel", waiting.run_id, "--json")
    assert (done.returncode, json.loads(done.stdout)["cancelled"]) == (0, True)
    code, output, _ = waiting.end()
    assert (code, json.loads(output)["status"]) == (1, "cancelled")


def test_cancel_waits_until_the_run_is_over(home: Home) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as worker:
        run_dir = served_by(home, worker)  # type: ignore[arg-type]
        done = servescope(home, "cancel", "theirs")
        assert done.returncode == 0, done.stderr
        assert state(read_status(run_dir)) == "cancelled"
        assert "theirs is cancelled" in done.stderr
