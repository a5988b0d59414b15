"""A learner's predictions: made once, kept through anything, taken away together and brought back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import LabError
from app.home import Home
from app.lessons import plan
from app.lessons.plan import begin, begin_again
from app.lessons.predicted import Predicted, checked, in_words
from app.lessons.progress import Committed, Progress, commit, read_progress, reset, take_back, undo_reset
from scenarios import lessons
from tests.app.lessons.small_lesson import LEARNER, small_lesson


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(tmp_path).prepare()
    lessons.look_also_in(opened.lessons)
    yield opened
    lessons.look_also_in(None)


def made(value: Predicted, experiment_id: str = "x-1") -> Committed:
    return Committed(predicted=value, experiment_id=experiment_id, hash="h")


def test_a_prediction_is_made_once_and_never_changed(home: Home) -> None:
    commit(home, LEARNER, "decoding", 0, made(3.0))
    with pytest.raises(LabError, match="stays as it is"):
        commit(home, LEARNER, "decoding", 0, made(5.0))
    assert read_progress(home, LEARNER).of("decoding")[0].predicted == 3.0


@pytest.mark.parametrize("value", [2.5, 1.0, ("b", "a"), (1.0, 2.5, 4.0)])
def test_every_kind_of_prediction_survives_the_disk(home: Home, value: Predicted) -> None:
    commit(home, LEARNER, "decoding", 0, made(value))
    assert read_progress(home, LEARNER).of("decoding")[0].predicted == value


def test_learners_do_not_see_each_other(home: Home) -> None:
    commit(home, LEARNER, "decoding", 0, made(3.0))
    assert read_progress(home, "anotherlearner1") == Progress()


def test_a_reset_takes_one_lesson_away_and_undo_brings_it_back(home: Home) -> None:
    for lesson in ("decoding", "batching"):
        commit(home, LEARNER, lesson, 0, made(3.0))
    before = read_progress(home, LEARNER).lessons
    reset(home, LEARNER, "decoding")
    assert set(read_progress(home, LEARNER).lessons) == {"batching"}
    commit(home, LEARNER, "batching", 1, made(4.0))
    undo_reset(home, LEARNER)
    after = read_progress(home, LEARNER)
    assert after.of("decoding") == before["decoding"]
    assert set(after.of("batching")) == {0, 1}
    undo_reset(home, LEARNER)
    assert read_progress(home, LEARNER) == after, "there is nothing left to undo"


def test_a_lesson_that_is_begun_anew_takes_new_predictions(home: Home) -> None:
    commit(home, LEARNER, "decoding", 0, made(3.0))
    reset(home, LEARNER, "decoding")
    commit(home, LEARNER, "decoding", 0, made(5.0))
    assert read_progress(home, LEARNER).of("decoding")[0].predicted == 5.0


@pytest.mark.parametrize("name", ["", "short", "../../etc/passwd", "UPPERCASE0000", "a" * 41, "<b>learner</b>00"])
def test_a_strange_name_of_a_learner_reaches_no_file(home: Home, name: str) -> None:
    with pytest.raises(LabError, match="no name of a browser's learner"):
        commit(home, name, "decoding", 0, made(3.0))
    with pytest.raises(LabError):
        read_progress(home, name)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "lessons": {"decoding": {"0": 3}}}'])
def test_a_damaged_file_is_said_and_left_alone(home: Home, text: str) -> None:
    home.learners.mkdir()
    path = home.learners / f"{LEARNER}.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LabError, match="cannot be read"):
        commit(home, LEARNER, "decoding", 0, made(3.0))
    assert path.read_text(encoding="utf-8") == text


def test_to_commit_writes_the_prediction_and_begins_its_runs(home: Home) -> None:
    name = small_lesson(home)
    experiment_id = begin(home, LEARNER, name, 0, 4.0)
    assert home.experiment_ids() == [experiment_id]
    assert read_progress(home, LEARNER).of(name)[0].experiment_id == experiment_id
    again = begin_again(home, LEARNER, name, 0)
    kept = read_progress(home, LEARNER).of(name)[0]
    assert (kept.experiment_id, kept.predicted) == (again, 4.0), "new runs for the same prediction"


def test_nothing_is_left_where_the_runs_cannot_begin(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    name = small_lesson(home)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plan, "create_experiment", full)
    with pytest.raises(OSError, match="No space"):
        begin(home, LEARNER, name, 0, 4.0)
    assert read_progress(home, LEARNER).of(name) == {}


def test_a_step_that_changed_can_be_predicted_anew(home: Home) -> None:
    commit(home, LEARNER, "decoding", 0, made(3.0))
    take_back(home, LEARNER, "decoding", 0)
    commit(home, LEARNER, "decoding", 0, made(5.0))


NUMBER, CURVE = ("decoding", 0), ("decoding", 1)
CHOICE, ORDER = ("batching", 0), ("batching", 1)


@pytest.mark.parametrize(
    ("step", "value", "words"),
    [
        (NUMBER, 3.0, "3 times"),
        (CHOICE, 1, "About the same, within a tenth"),
        (
            ORDER,
            ("wait static", "wait continuous", "wait one by one"),
            "wait static < wait continuous < wait one by one",
        ),
        (CURVE, (1.0, 2.0, 3.0, 4.5), "1 times at 1, 2 times at 4, 3 times at 8, 4.5 times at 16"),
        (("slo-goodput", 0), (1.0, 0.55, 0.0), "100 % at 1, 55 % at 4, 0 % at 16"),
    ],
)
def test_a_prediction_in_words(step: tuple[str, int], value: Predicted, words: str) -> None:
    asked = lessons.lesson(step[0]).steps[step[1]]
    assert in_words(asked, checked(asked, value)) == words


@pytest.mark.parametrize(
    ("step", "value", "mend"),
    [
        (NUMBER, 21.0, "from 0.5 to 20 times"),
        (NUMBER, float("nan"), "from 0.5 to 20 times"),
        (NUMBER, float("inf"), "from 0.5 to 20 times"),
        (NUMBER, (3.0,), "one for each point"),
        (CHOICE, 4, "Choose one"),
        (CHOICE, -1, "Choose one"),
        (CHOICE, 0.5, "Choose one"),
        (ORDER, ("wait static", "wait static", "wait one by one"), "each of these in its place once"),
        (ORDER, 1, "each of these in its place once"),
        (CURVE, (1.0, 2.0), "one for each point"),
        (CURVE, (1.0, 2.0, 3.0, 17.0), "from 0 to 16 times"),
        (CURVE, ("a", "b", "c", "d"), "from 0 to 16 times"),
    ],
)
def test_what_the_question_does_not_take_is_refused_with_what_it_takes(
    step: tuple[str, int], value: Predicted, mend: str
) -> None:
    asked = lessons.lesson(step[0]).steps[step[1]]
    with pytest.raises(LabError) as caught:
        checked(asked, value)
    assert caught.value.field == "prediction"
    assert mend in caught.value.mend
