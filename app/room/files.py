"""What a room keeps on disk: ``HOME/rooms/ID/room.json``, and ``members/ID.json`` for who has predicted.

Nobody who only looks leaves a file. All files are small, replaced whole and readable by the lab's owner only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.home import Home
from app.lessons.predicted import Predicted
from telemetry.json_file import Nanoseconds, Unreadable, read_as
from telemetry.status import Label

ROOM_ID = r"^room-[0-9]{8}-[0-9]{6}-[0-9a-f]{4}$"
MEMBER_ID = r"^[a-z0-9]{12,40}$"
ROOM, MEMBERS = "room.json", "members"
LONGEST_NAME = 40
LONGEST_ADDRESS = 2000
MOST_BYTES = 1 << 20
Lesson = Label
Place = Annotated[int, Field(ge=0, lt=100)]


class Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Shown(Kept):
    """Where the presenter is: a page's path ("" is the first one) and its parameters. ``n`` counts the changes."""

    page: Annotated[str, Field(pattern=r"^[a-z]{0,20}$")] = ""
    query: Annotated[str, Field(max_length=LONGEST_ADDRESS)] = ""
    n: Annotated[int, Field(ge=0, lt=2**53)] = 0


class Question(Kept):
    """A lesson's step as the room has it, once the presenter has begun its runs or has shown what was predicted."""

    experiment_id: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,63})?$")] = ""
    predicted: Predicted | None = None  # by the presenter
    hash: Annotated[str, Field(max_length=200)] = ""
    open_histogram: bool = False  # shown before the reveal


class RoomFile(Kept):
    """The room. Its tokens open it until it is over."""

    version: Literal[1] = 1
    room_id: Annotated[str, Field(pattern=ROOM_ID)]
    opened_unix_ns: Nanoseconds
    viewers_token: Annotated[str, Field(min_length=20, max_length=100)]
    presenters_token: Annotated[str, Field(min_length=20, max_length=100)]
    over: bool = False
    shown: Shown = Shown()
    viewers_may_start: bool = False
    questions: Annotated[dict[Lesson, dict[Place, Question]], Field(max_length=200)] = Field(default_factory=dict)


class Prediction(Kept):
    """What one member predicted of a step."""

    predicted: Predicted
    hash: Label
    committed_unix_ns: Nanoseconds


class MemberFile(Kept):
    """One member. ``name``: what they call themselves; nobody has to."""

    version: Literal[1] = 1
    name: Annotated[str, Field(max_length=LONGEST_NAME)] = ""
    predictions: Annotated[dict[Lesson, dict[Place, Prediction]], Field(max_length=200)] = Field(default_factory=dict)


def read_room(folder: Path) -> RoomFile | None:
    """The room of a folder; None where there is none or its file is damaged."""
    try:
        return read_as(RoomFile, folder / ROOM, MOST_BYTES)
    except (FileNotFoundError, Unreadable):
        return None


def read_members(folder: Path) -> dict[str, MemberFile]:
    """Every member that can be read, by id."""
    members = {}
    for path in sorted((folder / MEMBERS).glob("*.json")):
        try:
            members[path.stem] = read_as(MemberFile, path, MOST_BYTES)
        except (FileNotFoundError, Unreadable):
            continue
    return members


def rooms(home: Home) -> list[RoomFile]:
    """Every room of the store, the newest first."""
    if not home.rooms.is_dir():
        return []
    found = [room for folder in home.rooms.iterdir() if (room := read_room(folder)) and room.room_id == folder.name]
    return sorted(found, key=lambda room: room.opened_unix_ns, reverse=True)
