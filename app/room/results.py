"""What a room predicted and how it fared: scored against the runs that the presenter began, as rows, JSON, CSV."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass

from app.errors import LabError
from app.experiments.file import read_experiment
from app.experiments.measured import Measured
from app.experiments.missing_runs import as_it_is
from app.exports.csv_files import safe_cell
from app.lab import Lab
from app.lessons.predicted import Predicted, in_words
from app.lessons.reveal import Reveal, reveal
from app.rights import Right, needs
from app.room.room import Room
from scenarios import ScenarioError, lessons
from scenarios.lessons.lesson import Step
from scenarios.lessons.lesson_file import step_hash
from store.errors import StoreError
from telemetry.json_file import json_bytes

OPEN = "not revealed"


@dataclass(frozen=True)
class Answer:
    """One member's prediction of one step. ``member`` numbers the room's people, ``name`` is what they say."""

    member: int
    name: str
    lesson: str
    title: str
    step: int  # counted from 1
    question: str
    predicted: str
    outcome: str
    answered: str  # UTC
    experiment: str


@dataclass(frozen=True)
class Told:
    """An answer of one member with all that the reveal says of it; None while it is not revealed."""

    answer: Answer
    reveal: Reveal | None


def told_of(lab: Lab, room: Room, members: Collection[str]) -> list[Told]:
    """What these members predicted, by lesson and step, each held against its runs once they are over."""
    known = room.members
    numbers = {member: n for n, member in enumerate(sorted(known), 1)}
    found = []
    for name, n in room.questions():
        try:
            lesson = lessons.lesson(name)
            step = lesson.steps[n]
        except (ScenarioError, IndexError):
            continue
        made = {one: by for one, by in room.predictions(name, n, step_hash(step)).items() if one in members}
        experiment_id = room.question(name, n).experiment_id
        told = _reveals(lab, step, experiment_id, {one.predicted for one in made.values()}) if made else {}
        for member, one in made.items():
            reveal = told.get(one.predicted)
            answer = Answer(
                member=numbers[member],
                name=known[member].name,
                lesson=name,
                title=f"{lesson.title}: {step.title}",
                step=n + 1,
                question=step.predict.ask,
                predicted=in_words(step, one.predicted),
                outcome=reveal.outcome if reveal is not None else OPEN,
                answered=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.committed_unix_ns / 1e9)),
                experiment=experiment_id,
            )
            found.append(Told(answer, reveal))
    return found


@needs(Right.EXPORT)
def as_json(lab: Lab, room: Room) -> bytes:
    """Everything as one JSON object."""
    rows = [asdict(told.answer) for told in told_of(lab, room, list(room.members))]
    return json_bytes({"room": room.room_id, "members": len(room.members), "answers": rows})


@needs(Right.EXPORT)
def as_csv(lab: Lab, room: Room) -> bytes:
    """Everything as a table; no cell can be read as a formula."""
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(Answer.__dataclass_fields__)
    for told in told_of(lab, room, list(room.members)):
        writer.writerow([safe_cell(value) for value in asdict(told.answer).values()])
    return sink.getvalue().encode("utf-8")


def _reveals(lab: Lab, step: Step, experiment_id: str, predicted: set[Predicted]) -> dict[Predicted, Reveal]:
    """What the runs say of each of these predictions; nothing where they are not over or gone."""
    try:
        experiment = read_experiment(lab.home, experiment_id) if experiment_id else None
        if experiment is None or experiment.state != "finished":
            return {}
        there = as_it_is(lab.home, experiment)
        with lab.cursor() as con:
            measured = Measured(con, there, step.measure, step.measure.points())
            return {one: reveal(con, there, step, one, measured) for one in predicted}
    except (LabError, StoreError):
        return {}
