"""The room of a workshop: what the presenter shows, what the members predicted, what they may do.

Everything that must outlive the lab is on disk when a call returns (``files``); a page or a socket that comes back
reads the state as it is, so nothing is lost in between. Safe to use from any thread.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from app.errors import LabError
from app.home import Home
from app.lessons.predicted import Predicted, checked
from app.lessons.progress import Committed
from app.rights import Right, Visitor, needs
from app.room.files import (
    LONGEST_ADDRESS,
    LONGEST_NAME,
    MEMBER_ID,
    MEMBERS,
    ROOM,
    MemberFile,
    Prediction,
    Question,
    RoomFile,
    Shown,
    read_members,
    rooms,
)
from scenarios.lessons.lesson import Step
from scenarios.lessons.lesson_file import step_hash
from telemetry.json_file import write_json

LASTS_S = 16 * 3600.0  # a room of yesterday is not gone on with
MOST_MEMBERS = 1000
NOT_SHARED = ("token", "learner", "large", "present")  # parameters of the presenter's own page
PAGE = re.compile(r"[a-z]{0,20}")


class Room:
    """One room. ``revision`` changes whenever pages should be drawn anew."""

    def __init__(self, home: Home, kept: RoomFile) -> None:
        self.folder = home.rooms / kept.room_id
        self._kept = kept
        self._members = read_members(self.folder)
        self._lock = threading.RLock()
        self.address: Callable[[str], str] = str  # the address that a token opens
        self.revision = time.time_ns() // 1_000_000  # goes on rising over a restart

    @property
    def kept(self) -> RoomFile:
        """The room as it is on disk."""
        return self._kept

    @property
    def room_id(self) -> str:
        return self._kept.room_id

    @property
    def is_over(self) -> bool:
        return self._kept.over or time.time_ns() - self._kept.opened_unix_ns > LASTS_S * 1e9

    @property
    def members(self) -> Mapping[str, MemberFile]:
        """Who has a name or a prediction, by id."""
        with self._lock:
            return dict(self._members)

    # what the presenter does

    def show(self, page: str, query: str) -> Shown:
        """Note where the presenter is. Raises ``LabError`` for what is no page's address."""
        if not PAGE.fullmatch(page) or len(query) > LONGEST_ADDRESS:
            raise LabError(
                "bad-message",
                field="page",
                value=f"{page[:40]}?{query[:40]}",
                message="This is no address of a page.",
                mend=f"A page's name in small letters, and at most {LONGEST_ADDRESS} characters of parameters.",
            )
        pairs = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name not in NOT_SHARED]
        with self._lock:
            before, query = self._kept.shown, urlencode(pairs)
            if (page, query) != (before.page, before.query):
                self._change(shown=Shown(page=page, query=query, n=before.n + 1))
            return self._kept.shown

    @needs(Right.PRESENT)
    def allow_starts(self, allowed: bool) -> None:
        """Let viewers submit runs to the queue, or not."""
        self._change(viewers_may_start=allowed)
        self._turn()

    @needs(Right.PRESENT)
    def begin(self, lesson: str, step: int, committed: Committed) -> None:
        """Take these runs for the room's answer to a step: predictions are closed, and everybody sees the runs."""
        self._ask(
            lesson,
            step,
            experiment_id=committed.experiment_id,
            predicted=committed.predicted,
            hash=committed.hash,
        )

    @needs(Right.PRESENT)
    def open_histogram(self, lesson: str, step: int, shown: bool) -> None:
        """Show what the room predicts before the reveal, or hide it until then."""
        self._ask(lesson, step, open_histogram=shown)

    @needs(Right.PRESENT)
    def end(self) -> None:
        """Close the room: its links and its viewers' cookies open nothing any more. What it holds stays on disk."""
        self._change(over=True)
        self._turn()

    # what members do

    def predict(self, member: str, lesson: str, step: int, asked: Step, predicted: Predicted) -> None:
        """Write down what a member predicts. It stays as it is.

        Raises ``LabError`` where it is made already, the runs have begun, or the question does not take it.
        """
        value = checked(asked, predicted)
        with self._lock:
            of_lesson = dict(self._member(member).predictions.get(lesson, {}))
            if step in of_lesson and of_lesson[step].hash == step_hash(asked):
                raise _refused("already-predicted", "Your prediction of this step is made, and stays as it is.")
            if self.question(lesson, step).experiment_id:
                raise _refused("too-late", "The runs of this step have begun, so nothing can be predicted any more.")
            stamp = time.time_ns()
            made = Prediction(predicted=value, hash=step_hash(asked), committed_unix_ns=stamp)
            predictions = dict(self._member(member).predictions) | {lesson: of_lesson | {step: made}}
            self._write_member(member, predictions=predictions)

    def call(self, member: str, name: str) -> None:
        """Keep what a member wants to be called; without control characters, at most ``LONGEST_NAME`` characters."""
        said = " ".join("".join(letter for letter in name if letter.isprintable()).split())[:LONGEST_NAME]
        with self._lock:
            if said != self._member(member).name:
                self._write_member(member, name=said)

    # what everybody reads

    def question(self, lesson: str, step: int) -> Question:
        return self._kept.questions.get(lesson, {}).get(step, Question())

    def questions(self) -> list[tuple[str, int]]:
        """Every step that somebody predicted or that was begun: lesson and step, counted from 0."""
        with self._lock:
            asked = {(lesson, n) for lesson, steps in self._kept.questions.items() for n in steps}
            for one in self._members.values():
                asked |= {(lesson, n) for lesson, steps in one.predictions.items() for n in steps}
            return sorted(asked)

    def predictions(self, lesson: str, step: int, step_is: str | None = None) -> dict[str, Prediction]:
        """What was predicted of a step, by member; ``step_is``: only of the step with this hash."""
        with self._lock:
            made = {name: one.predictions.get(lesson, {}).get(step) for name, one in self._members.items()}
        return {name: one for name, one in made.items() if one is not None and step_is in (None, one.hash)}

    def asked_now(self) -> tuple[str, int] | None:
        """The lesson and step that the presenter shows; None where the page is another one."""
        shown = self._kept.shown
        parameters = parse_qs(shown.query)
        lesson, step = parameters.get("lesson", [""])[0], parameters.get("step", ["1"])[0]
        if shown.page != "learn" or not lesson or not step.isdecimal() or not 1 <= int(step) <= 100:
            return None
        return lesson, int(step) - 1

    def _member(self, member: str) -> MemberFile:
        if not re.fullmatch(MEMBER_ID, member):
            raise _refused("no-member", "This browser has not joined the room.", "Open the viewers' link.")
        return self._members.get(member, MemberFile())

    def _write_member(self, member: str, **changes: Any) -> None:
        if member not in self._members and len(self._members) >= MOST_MEMBERS:
            raise _refused("room-is-full", f"{MOST_MEMBERS} people have predicted in this room, and it takes no more.")
        changed = self._member(member).model_copy(update=changes)
        (self.folder / MEMBERS).mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self.folder / MEMBERS / f"{member}.json", changed)
        self._members[member] = changed

    def _ask(self, lesson: str, step: int, **changes: Any) -> None:
        with self._lock:
            of_lesson = dict(self._kept.questions.get(lesson, {}))
            of_lesson[step] = self.question(lesson, step).model_copy(update=changes)
            self._change(questions=dict(self._kept.questions) | {lesson: of_lesson})
            self._turn()

    def _change(self, **changes: Any) -> None:
        with self._lock:
            changed = self._kept.model_copy(update=changes)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(self.folder / ROOM, changed, durable="shown" not in changes)
            self._kept = changed

    def _turn(self) -> None:
        with self._lock:
            self.revision += 1


def open_room(home: Home) -> Room:
    """The store's room, if it was opened today and is not over; else a new one."""
    for kept in rooms(home)[:1]:
        room = Room(home, kept)
        if not room.is_over:
            return room
    now = time.time_ns()
    kept = RoomFile(
        room_id=f"room-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now / 1e9))}-{secrets.token_hex(2)}",
        opened_unix_ns=now,
        viewers_token=secrets.token_urlsafe(24),
        presenters_token=secrets.token_urlsafe(24),
    )
    room = Room(home, kept)
    room._change()
    return room


_room: Room | None = None


def get_room() -> Room | None:
    """The room that is open in this process; None where there is none."""
    return _room if _room is not None and not _room.is_over else None


def set_room(room: Room | None) -> None:
    global _room
    _room = room


def viewer_in(who: Visitor) -> Room | None:
    """The room in which somebody is a viewer; None for everybody else."""
    return get_room() if who.is_viewer else None


def _refused(kind: str, message: str, mend: str = "") -> LabError:
    return LabError(kind, field="room", message=message, mend=mend)
