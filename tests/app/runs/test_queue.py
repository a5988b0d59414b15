"""The run queue with real engine processes: one at a time, cancelled cleanly, settled when they die, adopted when not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.errors import LabError
from app.home import Home
from app.runs.folder import create_run
from app.runs.queue import RunQueue
from app.runs.settle import settle_orphans
from app.runs.trash import delete_run
from telemetry.process import identity_of, is_alive
from telemetry.status import read_status, state, write_status
from tests.app.small_runs import endless_spec, small_spec, spooled, wait_for, wait_for_state


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path).prepare()


@pytest.fixture
def queue(home: Home) -> Iterator[RunQueue]:
    queue = RunQueue(home)
    queue.start()
    yield queue
    queue.stop()


def left_behind(home: Home, run_id: str, spec: str, **status: object) -> None:
    """A run as another process left it; it is none before its spec is there, so a queue at work cannot take it half-made."""
    run_dir = home.run_dir(run_id)
    run_dir.mkdir()
    write_status(run_dir, **status)
    (run_dir / "spec.partial").write_text(spec)
    (run_dir / "spec.partial").rename(run_dir / "spec.json")


def test_a_run_goes_from_submission_to_finished_and_leaves_its_log(home: Home, queue: RunQueue) -> None:
    run_id = queue.submit(small_spec())
    status = wait_for_state(home, run_id, "finished")
    assert status["summary"]["requests"] == {"total": 4, "finished": 4, "failed": 0, "cancelled": 0}
    assert (home.run_dir(run_id) / "worker.log").is_file()


def test_one_run_at_a_time_on_a_device_in_the_order_they_came(home: Home, queue: RunQueue) -> None:
    first = queue.submit(endless_spec())
    second, third = queue.submit(small_spec()), queue.submit(small_spec())
    wait_for_state(home, first, "running")
    assert queue.running() == [first]
    assert queue.queued() == [second, third]
    assert state(read_status(home.run_dir(second))) == "queued"
    assert queue.cancel(first)
    wait_for_state(home, third, "finished")
    ended = [read_status(home.run_dir(run_id))["ended_unix_ns"] for run_id in (first, second, third)]
    assert ended == sorted(ended)


def test_cancelling_a_running_run_keeps_what_it_did(home: Home, queue: RunQueue) -> None:
    run_id = queue.submit(endless_spec())
    wait_for_state(home, run_id, "running")
    wait_for(lambda: spooled(home.run_dir(run_id)) > 2000)
    queue.cancel(run_id)
    status = wait_for_state(home, run_id, "cancelled")
    assert status["summary"]["iterations"] > 0
    assert "unfinished" in status["labels"]
    assert not queue.cancel(run_id)


def test_cancelling_before_the_engine_is_up_is_a_cancellation_not_a_crash(home: Home, queue: RunQueue) -> None:
    run_id = queue.submit(endless_spec())
    wait_for_state(home, run_id, "starting", "loading", "running")
    queue.cancel(run_id)
    wait_for_state(home, run_id, "cancelled")


def test_a_queued_run_can_be_cancelled_and_never_starts(home: Home, queue: RunQueue) -> None:
    first, second = queue.submit(endless_spec()), queue.submit(small_spec())
    assert queue.cancel(second)
    assert state(read_status(home.run_dir(second))) == "cancelled"
    assert second not in queue.queued()
    queue.cancel(first)
    wait_for(lambda: not queue.running())
    assert not (home.run_dir(second) / "worker.log").exists()


def test_an_engine_that_does_not_listen_is_killed_after_the_grace_period(home: Home) -> None:
    queue = RunQueue(home, grace_s=0.3)
    queue.start()
    run_id = queue.submit(endless_spec())
    pid = wait_for_state(home, run_id, "running")["pid"]
    os.kill(pid, signal.SIGSTOP)
    queue.cancel(run_id)
    wait_for_state(home, run_id, "cancelled")
    queue.stop()


def test_a_killed_engine_is_settled_as_crashed_in_one_sentence_and_the_queue_goes_on(
    home: Home, queue: RunQueue
) -> None:
    run_id, next_id = queue.submit(endless_spec()), queue.submit(small_spec())
    pid = wait_for_state(home, run_id, "running")["pid"]
    os.kill(pid, signal.SIGKILL)
    error = wait_for_state(home, run_id, "crashed")["error"]
    assert "SIGKILL" in error["message"]
    assert "Traceback" not in error["message"] + error["mend"]
    assert error["log"].endswith(f"{run_id}/worker.log")
    assert "unfinished" in read_status(home.run_dir(run_id))["labels"]
    wait_for_state(home, next_id, "finished")


def test_a_run_the_engine_refuses_fails_with_the_engines_own_words(home: Home, queue: RunQueue) -> None:
    run_id = queue.submit(small_spec(model="no/such-directory/at-all"))
    error = wait_for_state(home, run_id, "failed")["error"]
    assert error["field"] == "model"
    assert error["mend"]


def test_a_warm_worker_waits_while_nothing_runs_and_serves_the_next_run(home: Home, queue: RunQueue) -> None:
    queue.keep_spare = True
    wait_for(lambda: queue.spare_is_ready)
    spare = queue._spare
    assert spare is not None
    run_id = queue.submit(small_spec())
    assert wait_for_state(home, run_id, "finished")["pid"] == spare.pid


def test_stopping_ends_the_run_cleanly_and_leaves_the_queue_on_disk(home: Home) -> None:
    queue = RunQueue(home, keep_spare=True)
    queue.start()
    first, second = queue.submit(endless_spec()), queue.submit(small_spec())
    pid = wait_for_state(home, first, "running")["pid"]
    queue.stop()
    assert state(read_status(home.run_dir(first))) == "cancelled"
    assert state(read_status(home.run_dir(second))) == "queued"
    assert not is_alive({"pid": pid})
    assert list(home.spare.iterdir()) == []
    later = RunQueue(home)
    later.start()
    wait_for_state(home, second, "finished")
    later.stop()


def test_a_queue_takes_over_what_a_dead_one_left(home: Home) -> None:
    """A run in progress whose engine is gone is settled, a queued one is served, a finished one is left alone."""
    for run_id, changes in {
        "was-running": {"state": "running", "pid": 2**22 + 1, "process_start_unix": 1.0},
        "was-queued": {"supervisor": {"pid": 2**22 + 1, "process_start_unix": 1.0}},
        "was-finished": {"state": "finished"},
    }.items():
        write_status(create_run(home, small_spec(run_id)), **changes)
    queue = RunQueue(home)
    queue.start()
    error = wait_for_state(home, "was-running", "crashed")["error"]
    assert "disappeared" in error["message"]
    wait_for_state(home, "was-queued", "finished")
    assert read_status(home.run_dir("was-finished")).get("summary") is None
    queue.stop()


def test_a_run_another_supervisor_looks_after_is_left_to_it(home: Home, queue: RunQueue) -> None:

    create_run(home, small_spec("theirs"), supervisor=identity_of(os.getppid()))
    other = queue.submit(small_spec())
    wait_for_state(home, other, "finished")
    wait_for(lambda: not queue.running())
    assert state(read_status(home.run_dir("theirs"))) == "queued"


def test_a_clock_that_was_set_writes_no_living_run_off(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that starts after the clock was stepped finds a living worker and a living supervisor."""
    first = RunQueue(home)
    first.start()
    run_id = first.submit(endless_spec())
    wait_for_state(home, run_id, "running")
    boot = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + 60)
    settle_orphans(home)
    RunQueue(home).tick()
    assert state(read_status(home.run_dir(run_id))) == "running"
    with pytest.raises(LabError, match="still being served"):
        delete_run(home, run_id)
    first.stop()
    assert state(read_status(home.run_dir(run_id))) == "cancelled"


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_the_engine(home: Home, queue: RunQueue) -> None:
    status = {"state": "running", "pid": os.getpid(), "process_start_unix": 12345.0, "supervisor": {"pid": os.getpid()}}
    left_behind(home, "reused", small_spec("reused").model_dump_json(), **status)
    wait_for_state(home, "reused", "crashed")


def test_a_spec_that_cannot_be_read_fails_instead_of_blocking_the_queue(home: Home, queue: RunQueue) -> None:
    left_behind(home, "broken", "{}", state="queued", supervisor={"pid": 2**22 + 1})
    error = wait_for_state(home, "broken", "failed")["error"]
    assert error["kind"] == "bad-spec"
    wait_for_state(home, queue.submit(small_spec()), "finished")


def test_an_id_is_taken_once_and_an_unknown_one_is_refused(home: Home, queue: RunQueue) -> None:
    queue.submit(small_spec("same"))
    with pytest.raises(LabError, match="already a run 'same'"):
        queue.submit(small_spec("same"))
    with pytest.raises(LabError, match="no run 'other'"):
        queue.cancel("other")
