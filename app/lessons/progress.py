"""What a browser's learner has predicted: ``HOME/learners/ID.json``. A prediction is written once and never changed.

A lesson that is begun anew takes its predictions out of the way, from where the last reset can be taken back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from app.errors import LabError
from app.home import Home
from app.lessons.predicted import Predicted
from app.rights import Right, needs
from telemetry.json_file import Nanoseconds, Unreadable, read_as, write_json
from telemetry.status import Label

LEARNER = re.compile(r"[a-z0-9]{12,40}")
MOST_BYTES = 1 << 20
MOST_LEARNERS = 5000  # files: a room of browsers that forget who they are must not fill a disk


NOT_BEGUN = "not-begun"
"""In place of an experiment: a room's presenter has not begun it yet."""


class Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Committed(Kept):
    """A prediction, the experiment that answers it, and the hash of the step as it was then."""

    predicted: Predicted
    experiment_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    hash: Label
    committed_unix_ns: Nanoseconds = 0
    by_presenter: bool = False  # in a room, of who predicted nothing


Steps = Annotated[dict[Annotated[int, Field(ge=0, lt=100)], Committed], Field(max_length=100)]


class Progress(Kept):
    """The predictions of one learner, by lesson and step (counted from 0). ``reset``: what the last reset took away."""

    version: Literal[1] = 1
    lessons: Annotated[dict[Label, Steps], Field(max_length=200)] = Field(default_factory=dict)
    reset: tuple[Label, Steps] | None = None

    def of(self, lesson: str) -> dict[int, Committed]:
        return self.lessons.get(lesson, {})


def is_learner(text: object) -> bool:
    """Whether a text can be a browser's name for its learner."""
    return isinstance(text, str) and LEARNER.fullmatch(text) is not None


def read_progress(home: Home, learner: str) -> Progress:
    """What a learner has predicted; nothing for one who was not here before. Raises ``LabError`` for a damaged file."""
    try:
        return read_as(Progress, _path(home, learner), MOST_BYTES)
    except FileNotFoundError:
        return Progress()
    except Unreadable as error:
        raise LabError(
            "bad-progress",
            field="learner",
            value=learner,
            message=f"What was predicted cannot be read: {error.reason}.",
            mend=f"Remove {error.path} to begin anew.",
        ) from error


def commit(home: Home, learner: str, lesson: str, step: int, committed: Committed) -> None:
    """Write down a prediction. Raises ``LabError`` where the step has one."""
    with _changing(home, learner) as progress:
        own = progress.of(lesson)
        if step in own:
            raise LabError(
                "already-predicted",
                field="prediction",
                value=f"{lesson}, step {step + 1}",
                message="The prediction of this step is made, and stays as it is.",
                mend="Begin the lesson anew to predict again.",
            )
        stamped = committed.model_copy(update={"committed_unix_ns": time.time_ns()})
        _write(home, learner, progress, lesson, own | {step: stamped})


def take_back(home: Home, learner: str, lesson: str, step: int) -> None:
    """Forget a prediction whose runs could not begin, or whose step is another one now."""
    with _changing(home, learner) as progress:
        _write(home, learner, progress, lesson, {n: one for n, one in progress.of(lesson).items() if n != step})


def serve_again(home: Home, learner: str, lesson: str, step: int, experiment_id: str) -> None:
    """Let another experiment answer the prediction, which stays."""
    with _changing(home, learner) as progress:
        own = progress.of(lesson)
        if step in own:
            again = own[step].model_copy(update={"experiment_id": experiment_id})
            _write(home, learner, progress, lesson, own | {step: again})


def reset(home: Home, learner: str, lesson: str) -> None:
    """Begin a lesson anew; its runs stay in the store."""
    with _changing(home, learner) as progress:
        own = progress.of(lesson)
        if own:
            rest = {name: steps for name, steps in progress.lessons.items() if name != lesson}
            write_json(_path(home, learner), Progress(lessons=rest, reset=(lesson, own)))


def undo_reset(home: Home, learner: str) -> None:
    """Take the last reset back; what was predicted anew since then gives way."""
    with _changing(home, learner) as progress:
        if progress.reset is not None:
            lesson, steps = progress.reset
            write_json(_path(home, learner), Progress(lessons=dict(progress.lessons) | {lesson: steps}))


def _write(home: Home, learner: str, progress: Progress, lesson: str, steps: dict[int, Committed]) -> None:
    lessons = dict(progress.lessons) | {lesson: steps}
    write_json(_path(home, learner), Progress(lessons={k: v for k, v in lessons.items() if v}, reset=progress.reset))


@contextmanager
@needs(Right.KEEP)
def _changing(home: Home, learner: str) -> Iterator[Progress]:
    """The progress, from reading it to writing it: two tabs of a browser lose nothing of each other."""
    path = _path(home, learner)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(home.locks / f"learner-{learner}.lock"):
        if not path.exists() and sum(1 for _ in path.parent.glob("*.json")) >= MOST_LEARNERS:
            raise LabError(
                "too-many-learners",
                field="learner",
                value=learner,
                message=f"{MOST_LEARNERS} browsers have predicted in this store, and it keeps no more.",
                mend=f"Remove files of {path.parent}.",
            )
        yield read_progress(home, learner)


def _path(home: Home, learner: str) -> Path:
    if not is_learner(learner):
        raise LabError(
            "bad-learner",
            field="learner",
            value=str(learner)[:80],
            message="This is no name of a browser's learner.",
            mend="It has 12 to 40 small letters and digits; without one the page draws its own.",
        )
    return home.learners / f"{learner}.json"
