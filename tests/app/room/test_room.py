"""A room keeps what was shown and predicted, whatever happens to the lab; nobody's prediction changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import LabError
from app.home import Home
from app.lessons.progress import NOT_BEGUN, Committed
from app.room import room as rooms
from app.room.files import ROOM
from app.room.lesson import progress_in, reached_in
from app.room.look import look_of
from app.room.room import Room, open_room
from app.room.tally import bars_of
from scenarios import lessons
from scenarios.lessons.lesson_file import step_hash
from tests.app.room.viewers import ANNA, BEN

LESSON = "batching"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path).prepare()


def step(n: int = 0, lesson: str = LESSON):  # type: ignore[no-untyped-def]
    return lessons.lesson(lesson).steps[n]


def answer(room: Room, member: str, value: object = 1) -> None:
    room.predict(member, LESSON, 0, step(), value)  # type: ignore[arg-type]


def test_a_lab_that_starts_again_finds_the_room_its_place_and_its_predictions(home: Home) -> None:
    room = open_room(home)
    room.show("learn", "lesson=batching&step=1")
    answer(room, ANNA, 2)
    room.call(ANNA, "Anna")
    again = open_room(home)
    assert again.room_id == room.room_id
    assert again.kept.viewers_token == room.kept.viewers_token
    assert (again.kept.shown.page, again.kept.shown.query) == ("learn", "lesson=batching&step=1")
    assert again.predictions(LESSON, 0)[ANNA].predicted == 2
    assert again.members[ANNA].name == "Anna"
    assert again.revision >= room.revision, "pages that are open see that something is new"


def test_a_room_that_is_over_or_of_yesterday_is_not_gone_on_with(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_room(home)
    first.end()
    assert first.is_over
    second = open_room(home)
    assert second.room_id != first.room_id
    monkeypatch.setattr(rooms, "LASTS_S", -1.0)
    assert second.is_over
    assert open_room(home).kept.viewers_token != second.kept.viewers_token


def test_a_damaged_room_gives_way_to_a_new_one(home: Home) -> None:
    room = open_room(home)
    (room.folder / ROOM).write_text('{"room_id": "../x"}')
    assert open_room(home).room_id != room.room_id


def test_a_prediction_is_made_once_and_not_after_the_runs_have_begun(home: Home) -> None:
    room = open_room(home)
    answer(room, ANNA, 1)
    with pytest.raises(LabError, match="stays as it is"):
        answer(room, ANNA, 2)
    with pytest.raises(LabError, match="answers"):
        answer(room, BEN, 99)
    room.begin(LESSON, 0, Committed(predicted=0, experiment_id="runs-1", hash=step_hash(step())))
    with pytest.raises(LabError, match="have begun"):
        answer(room, BEN, 1)
    assert {name: one.predicted for name, one in room.predictions(LESSON, 0).items()} == {ANNA: 1}


@pytest.mark.parametrize("member", ["", "../../etc/passwd", "Anna Anna Anna", "a" * 41])
def test_who_has_not_joined_writes_nothing(home: Home, member: str) -> None:
    room = open_room(home)
    with pytest.raises(LabError, match="has not joined"):
        answer(room, member)
    assert not list(room.folder.rglob("*/*.json"))


def test_a_name_is_cut_and_has_no_control_characters(home: Home) -> None:
    room = open_room(home)
    room.call(ANNA, "  <b>An\x00na\u202e\n</b>" + "x" * 100)
    assert room.members[ANNA].name.startswith("<b>Anna</b>xxx")
    assert len(room.members[ANNA].name) == 40


def test_a_full_room_takes_nobody_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MOST_MEMBERS", 1)
    room = open_room(home)
    answer(room, ANNA)
    with pytest.raises(LabError, match="takes no more"):
        answer(room, BEN)


def test_what_is_shown_is_an_address_without_what_is_the_presenters_own(home: Home) -> None:
    room = open_room(home)
    shown = room.show("learn", "lesson=batching&learner=me&token=secret&large=yes&step=2")
    assert shown.query == "lesson=batching&step=2"
    assert room.show("learn", "lesson=batching&step=2").n == shown.n, "the same place is no change"
    assert room.asked_now() == ("batching", 1)
    for page, query in (("../x", ""), ("learn", "x" * 3000), ("Learn", "")):
        with pytest.raises(LabError, match="no address"):
            room.show(page, query)
    assert json.loads((room.folder / ROOM).read_text())["shown"]["page"] == "learn"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"page": "../x"}, "look.page"),
        ({"share": 1.5}, "look.share"),
        ({"of": float("nan")}, "look.of"),
        ({"to": "x" * 200}, "look.to"),
        ({"views": {"chart": [1, float("inf")]}}, "look.views.chart.1"),
        ({"views": {"chart": ["<b>"]}}, "look.views.chart.0"),
        ({"views": {"chart": [1] * 7}}, "look.views.chart"),
        ({"views": {f"chart {n}": [] for n in range(30)}}, "look.views"),
        ({"query": "x"}, "look.query"),
    ],
)
def test_what_is_nothing_to_look_at_is_refused_by_its_part(change: dict[str, Any], field: str) -> None:
    good = {"page": "learn", "from": "top", "to": "end", "share": 0.5, "of": 0, "views": {"chart": [1, 2]}}
    assert look_of(good).model_dump(by_alias=True) == good | {"of": 0.0, "views": {"chart": (1.0, 2.0)}}
    with pytest.raises(LabError, match="nothing to look at") as refused:
        look_of(good | change)
    assert refused.value.field == field


def test_a_member_sees_the_presenters_runs_with_their_own_prediction(home: Home) -> None:
    room = open_room(home)
    answer(room, ANNA, 1)
    assert progress_in(room, ANNA).of(LESSON)[0].experiment_id == NOT_BEGUN
    assert not progress_in(room, BEN).of(LESSON)
    room.begin(LESSON, 0, Committed(predicted=0, experiment_id="runs-1", hash=step_hash(step())))
    mine, theirs = progress_in(room, ANNA).of(LESSON)[0], progress_in(room, BEN).of(LESSON)[0]
    assert (mine.predicted, mine.experiment_id, mine.by_presenter) == (1, "runs-1", False)
    assert (theirs.predicted, theirs.experiment_id, theirs.by_presenter) == (0, "runs-1", True)


def test_members_reach_the_step_the_presenter_shows(home: Home) -> None:
    room = open_room(home)
    assert reached_in(room, LESSON) == 0
    room.show("learn", f"lesson={LESSON}&step=2")
    assert reached_in(room, LESSON) == 1
    assert reached_in(room, "decoding") == 0


def test_bars_count_answers_numbers_and_orders() -> None:
    choice = step()
    assert [count for _, count in bars_of(choice, [0, 0, 1])][:2] == [2, 1]
    numbered = next(s for one in lessons.lessons()[0].values() for s in one.steps if s.predict.kind == "number")
    asked = numbered.predict
    bars = bars_of(numbered, [asked.low, asked.high, asked.high])  # type: ignore[union-attr]
    assert (bars[0][1], bars[-1][1], sum(count for _, count in bars)) == (1, 2, 3)
