"""Waiting runs in another order: moved on the command line or by whoever keeps the queue, and kept for the next one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.errors import LabError
from app.home import Home
from app.runs.folder import create_run
from app.runs.queue import RunQueue
from app.runs.queue_order import waiting_runs
from telemetry.status import read_status, write_status
from tests.app.small_runs import small_spec

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path).prepare()
    for n, name in enumerate(NAMES):
        write_status(create_run(home, small_spec(name)), queued_unix_ns=1000 + n)  # as close as runs can come
    return home


@pytest.fixture
def queue(home: Home) -> RunQueue:
    """A queue that holds what waits and starts nothing."""
    return holding(home)


def holding(home: Home) -> RunQueue:
    queue = RunQueue(home)
    for name in home.run_ids():
        queue.enqueue(name)
    return queue


@pytest.mark.parametrize(
    ("moves", "order"),
    [
        ([("c", "front")], "cabd"),
        ([("c", "up")], "acbd"),
        ([("b", "down")], "acbd"),
        ([("d", "up"), ("d", "up"), ("a", "down")], "dabc"),
        ([("d", "front"), ("c", "front"), ("b", "front")], "bcda"),
        ([("a", "front"), ("a", "up"), ("d", "down")], "abcd"),
    ],
)
def test_a_moved_run_is_served_where_it_was_put_also_by_the_next_queue(
    home: Home, queue: RunQueue, moves: list[tuple[str, str]], order: str
) -> None:
    for name, way in moves:
        queue.move(name, way)
    assert queue.queued() == list(order)
    assert waiting_runs(home) == list(order)
    assert holding(home).queued() == list(order), "a lab that starts anew has it from the disk"


def test_runs_that_came_in_the_same_moment_can_be_moved(home: Home) -> None:
    for name in NAMES:
        write_status(home.run_dir(name), queued_unix_ns=1000)
    queue = holding(home)
    queue.move("c", "up")
    queue.move("a", "down")
    assert queue.queued() == holding(home).queued()
    assert queue.queued().index("c") < queue.queued().index("b")


def test_a_run_is_moved_among_those_of_its_device(home: Home) -> None:
    write_status(create_run(home, small_spec("e", device="cuda:0")), queued_unix_ns=1001)
    queue = holding(home)
    assert queue.queued() == ["a", "b", "e", "c", "d"]
    assert [name for name in queue.move("c", "up") if name != "e"] == ["a", "c", "b", "d"]


def test_what_comes_later_waits_behind_what_was_moved(home: Home, queue: RunQueue) -> None:
    queue.move("d", "front")
    create_run(home, small_spec("later"))
    queue.enqueue("later")
    assert queue.queued() == ["d", "a", "b", "c", "later"]


def test_what_cannot_be_moved_is_refused_and_nothing_changes(home: Home, queue: RunQueue) -> None:
    queue.cancel("b")
    before = {name: read_status(home.run_dir(name)) for name in NAMES}
    with pytest.raises(LabError, match="b does not wait"):
        queue.move("b", "up")
    with pytest.raises(LabError, match="front, up, down"):
        queue.move("a", "sideways")
    assert {name: read_status(home.run_dir(name)) for name in NAMES} == before


def test_the_command_line_lists_and_moves_with_no_lab(home: Home) -> None:
    def servescope(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*arguments], env={"SERVESCOPE_HOME": str(home.root)})
        return done.exit_code, done.output

    assert json.loads(servescope("queue", "c", "front", "--json")[1]) == {"running": [], "queued": list("cabd")}
    assert "small" not in servescope("queue")[1].partition("place")[0]
    for arguments, words in ((("queue", "c"), "front, up, down"), (("queue", "c", "back"), "'back'")):
        code, said = servescope(*arguments)
        assert code == 1
        assert words in said
