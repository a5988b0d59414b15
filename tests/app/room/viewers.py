"""A room and people in it, for tests within this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from app.home import Home
from app.rights import OWNER, VIEWER, Headers, Right, Visitor, judge_by
from app.room.room import Room, open_room, set_room

ANNA, BEN = "annaannaannaanna", "benbenbenbenbenb"


class Everybody:
    """A judge who takes every page's visitor for the same person."""

    def __init__(self, room: Room, who: Visitor) -> None:
        self._room, self._who = room, who

    def visitor_of(self, headers: Headers) -> Visitor:
        return self._who

    def rights_of_viewers(self) -> frozenset[Right]:
        return frozenset({Right.START} if self._room.kept.viewers_may_start else ())


@contextlib.contextmanager
def room_in(home: Home, member: str | None = ANNA) -> Iterator[Room]:
    """A room that is open for the length of a block; its pages are looked at by this viewer (None: by the presenter)."""
    room = open_room(home)
    set_room(room)
    judge_by(Everybody(room, Visitor(VIEWER, member) if member else Visitor(OWNER)))
    try:
        yield room
    finally:
        set_room(None)
        judge_by(None)
