"""Lessons in a room: the presenter begins a step's runs, the members predict it, and everybody sees the same runs."""

from __future__ import annotations

from app.home import Home
from app.lessons.plan import begin
from app.lessons.predicted import Predicted
from app.lessons.progress import NOT_BEGUN, Committed, Progress, read_progress
from app.rights import visitor
from app.room.room import Room, get_room, viewer_in
from scenarios import ScenarioError, lessons
from scenarios.build import Measure
from scenarios.lessons.lesson import Step
from scenarios.lessons.lesson_file import step_hash


def commit_here(home: Home, learner: str, lesson: str, n: int, predicted: Predicted, measure: Measure) -> None:
    """Write a prediction down. A viewer's goes to the room; anybody else's begins the runs, which in a room are the
    runs of everybody. Raises as ``begin`` and ``Room.predict``.
    """
    who = visitor()
    room = viewer_in(who)
    if room is not None:
        room.predict(who.member, lesson, n, lessons.lesson(lesson).steps[n], predicted)
        return
    begin(home, learner, lesson, n, predicted, measure=measure)
    share(home, learner, lesson, n)


def share(home: Home, learner: str, lesson: str, n: int) -> None:
    """Show the room the runs of the presenter's prediction; nothing without a room."""
    room, committed = get_room(), read_progress(home, learner).of(lesson).get(n)
    if room is not None and committed is not None:
        room.begin(lesson, n, committed)


def share_again(home: Home, learner: str, lesson: str, n: int) -> None:
    """The same where the room saw the runs before, which were served anew."""
    room = get_room()
    if room is not None and room.question(lesson, n).experiment_id:
        share(home, learner, lesson, n)


def progress_in(room: Room, member: str) -> Progress:
    """What a member has predicted, with the runs that the presenter began; where they predicted nothing and the runs
    have begun, what the presenter predicted.
    """
    found: dict[str, dict[int, Committed]] = {}
    for lesson, n in room.questions():
        question, own = room.question(lesson, n), room.predictions(lesson, n).get(member)
        if own is not None and own.hash == hash_of(lesson, n):
            made = Committed(
                predicted=own.predicted,
                experiment_id=question.experiment_id or NOT_BEGUN,
                hash=own.hash,
                committed_unix_ns=own.committed_unix_ns,
            )
        elif question.experiment_id and question.predicted is not None:
            made = Committed(
                predicted=question.predicted,
                experiment_id=question.experiment_id,
                hash=question.hash,
                by_presenter=True,
            )
        else:
            continue
        found.setdefault(lesson, {})[n] = made
    return Progress(lessons=found)


def hash_of(lesson: str, n: int) -> str | None:
    """The hash of a step as it is now; None where there is none."""
    try:
        return step_hash(lessons.lesson(lesson).steps[n])
    except (ScenarioError, IndexError):
        return None


def reached_in(room: Room | None, lesson: str) -> int:
    """The furthest step of a lesson that a room has come to, counted from 0."""
    if room is None:
        return 0
    asked = room.asked_now()
    steps = [n for name, n in room.questions() if name == lesson]
    return max([0, *steps, *([asked[1]] if asked is not None and asked[0] == lesson else [])])


def values_of(room: Room, lesson: str, n: int, step: Step) -> list[Predicted]:
    """What was predicted of a step as it is now."""
    return [one.predicted for one in room.predictions(lesson, n, step_hash(step)).values()]
