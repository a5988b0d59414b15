"""A learner's hand-out: what they predicted in a room, what was measured and why, as one HTML file."""

from __future__ import annotations

from app.experiments.measured import figure_rows
from app.exports.html import fine_print, page, section, story, table_of
from app.lab import Lab
from app.lessons.reveal import OUTCOMES
from app.room.results import Told, told_of
from app.room.room import Room
from app.words.plain import counted

HEADS = ("Figure", "What it is", "At", "Measured")


def handout(lab: Lab, room: Room, member: str) -> bytes:
    """The file of one member."""
    told = told_of(lab, room, [member])
    right = sum(one.answer.outcome == "right" for one in told)
    name = room.members[member].name if member in room.members else ""
    said = [f"{counted(len(told), 'prediction')}, {right} of them right within the measured interval."]
    head = story("What you predicted, and what was measured", "", [name] if name else [], said)
    return page("ServeScope hand-out", [head, *map(_step, told), fine_print(f"Room {room.room_id}.")]).encode("utf-8")


def _step(told: Told) -> str:
    answer, reveal = told.answer, told.reveal
    rows = [("Asked", answer.question), ("You predicted", answer.predicted)]
    if reveal is None:
        return section(f"{answer.title}", table_of(("", ""), rows), "The runs were not over when this was written.")
    rows.append(("Result", OUTCOMES[reveal.outcome]))
    body = table_of(("", ""), rows) + table_of(HEADS, figure_rows(reveal.figures))
    return section(answer.title, body, " ".join((*reveal.paragraphs, *reveal.notes)))
