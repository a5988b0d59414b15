"""The order of waiting runs: as they came, until somebody moves one.

A run's place stands in its status, so the order outlives whoever keeps the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from app.errors import LabError
from app.home import Home
from telemetry.folder import is_run
from telemetry.status import read_status, state, write_status

Way = Literal["front", "up", "down"]
WAYS: tuple[str, ...] = get_args(Way)


def place_of(run_dir: Path) -> tuple[int, int, str]:
    """What waiting runs are sorted by, next first."""
    status = read_status(run_dir)
    came = int(status.get("queued_unix_ns") or 0)
    return int(status.get("queue_place") or came), came, run_dir.name


def waiting_runs(home: Home) -> list[str]:
    """Ids of the runs on disk that wait, next first, whoever will serve them."""
    folders = (home.run_dir(run_id) for run_id in home.run_ids())
    waiting = [folder for folder in folders if is_run(folder) and state(read_status(folder)) == "queued"]
    return [folder.name for folder in sorted(waiting, key=place_of)]


def move(home: Home, order: Sequence[str], run_id: str, way: str) -> None:
    """Move a waiting run before all others, before the one ahead of it, or behind the next. ``order``: the waiting runs
    that it stands among, next first. At the end of the queue, or its front, nothing happens.

    Raises ``LabError`` for a run that does not wait, or a way that is none.
    """
    if way not in WAYS:
        raise LabError(
            "bad-way", field="way", value=way, message=f"A run cannot be moved {way!r}.", mend=f"Say {', '.join(WAYS)}."
        )
    if run_id not in order:
        raise LabError(
            "not-waiting",
            field="run",
            value=run_id,
            message=f"The run {run_id} does not wait, so it has no place in the queue.",
            mend=f"Waiting: {', '.join(order[:5])}." if order else "No run waits.",
        )
    here = list(order).index(run_id)
    there = {"front": 0, "up": here - 1, "down": here + 1}[way]
    if there == here or not 0 <= there < len(order):
        return
    other, own = (place_of(home.run_dir(order[n]))[0] for n in (there, here))
    if way == "front":
        _put(home, run_id, max(0, other - 1))
        return
    first, second = sorted((other, own))
    second = max(second, first + 1)
    _put(home, run_id, second if way == "down" else first)
    _put(home, order[there], first if way == "down" else second)


def _put(home: Home, run_id: str, place: int) -> None:
    write_status(home.run_dir(run_id), queue_place=place)
