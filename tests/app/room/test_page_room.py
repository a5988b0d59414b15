"""The pages as a viewer of a room sees them: every control is tried on every page, and nothing in the store changes."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import app
from app.errors import LabError
from app.experiments.file import read_experiment
from app.lab import Lab
from app.lessons.progress import read_progress
from app.rights import VIEWER, Right, Visitor, judge_by, rights_of
from app.room.handout import handout
from app.room.results import as_csv, as_json
from app.room.room import Room
from app.views.missing import rows_of
from app.views.room import qr_code
from scenarios import lessons
from tests.app.lab_process import lab_here
from tests.app.lessons.small_lesson import LEARNER, served_step, small_lesson
from tests.app.pages.test_page_papers import page_at, said
from tests.app.room.viewers import ANNA, BEN, Everybody, room_in
from tests.app.small_runs import wait_for

LESSON = "places"
HOUSE = Path(app.__file__).parent
MARKUP = "<img src=x onerror=alert(1)>"
DOORS = {
    "app.runs.queue": "cancel move",
    "app.runs.trash": "delete_run restore_run delete_for_good empty_trash",
    "app.runs.notes": "write_notes",
    "app.experiments.file": "create_experiment write_experiment delete_experiment",
    "app.settings.saved": "save_settings delete_saved",
    "app.settings.saved_queries": "save_query delete_query",
    "app.settings.traces": "keep_trace",
    "app.exports.export": "export",
    "app.exports.import_file": "import_file",
    "app.exports.import_report": "import_report",
    "app.server.indexing": "select_from",
    "app.lab": "submit",
    "app.reports": "create_report change_report pin_chart put_back delete_report",
    "app.components.pin_button": "pin_picture",
    "app.retention": "write_rule keep_to",
    "app.door.open_doors": "launch close",
    "app.door.chat": "talk",
    "app.attach.launch": "launch",
    "app.lessons.progress": "_changing",
    "app.panels.kv_quantization.measure": "start",
    "app.views.sql": "sql_box _run",
    "app.views.paper_claim": "_start",
    "app.room.room": "allow_starts begin open_histogram end",
    "app.room.results": "as_json as_csv",
}
"""Everything that refuses a viewer by itself, whoever asks for it on their behalf."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a lesson whose first step is served, as the presenter's."""
    with lab_here(tmp_path_factory.mktemp("room"), serves_experiments=False) as opened:
        small_lesson(opened.home)
        experiment_id = served_step(opened.home, LESSON, 0, 4.0)
        experiment = read_experiment(opened.home, experiment_id)
        for turn in experiment.turns:
            opened.collector.notify(turn.run_id)
        wait_for(lambda: not rows_of(opened, [experiment]))
        yield opened


@pytest.fixture
def room(lab: Lab) -> Iterator[Room]:
    with room_in(lab.home) as opened:
        yield opened
        opened._change(over=True)  # the next test has a room of its own


def as_presenter(room: Room, act: Callable[[], Any]) -> Any:
    judge_by(None)
    try:
        return act()
    finally:
        judge_by(Everybody(room, Visitor(VIEWER, ANNA)))


def store(lab: Lab) -> dict[str, str]:
    files = [path for path in lab.home.root.rglob("*") if path.is_file() and "locks" not in path.parts]
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.startswith("servescope.duckdb") and path.name != "brief.json"
    }


def run_of(lab: Lab) -> str:
    return lab.home.run_ids()[0]


def pages(lab: Lab) -> list[tuple[str, dict[str, Any]]]:
    experiment = lab.home.experiment_ids()[0]
    return [
        ("live", {"run": run_of(lab)}),
        ("live", {"run": "no-such-run"}),
        ("compare", {"experiment": experiment}),
        ("runs", {}),
        ("door", {}),
        ("learn", {}),
        ("learn", {"lesson": LESSON}),
        ("learn", {"lesson": "batching"}),
        ("papers", {}),
        ("papers", {"paper": "sarathi-serve"}),
        ("glossary", {}),
        ("room", {}),
    ]


def controls(page: AppTest) -> list[Any]:
    return [one for kind in ("button", "toggle", "checkbox") for one in page.get(kind) if not one.disabled]


def kind_of(control: Any) -> str:
    """Alike for controls that do the same of different things, as the cards of a gallery do."""
    return str(control.key or control.label).partition("-")[0]


def kinds_of(page: AppTest) -> list[str]:
    return list(dict.fromkeys(kind_of(one) for one in controls(page)))


def test_every_control_of_every_page_leaves_the_store_as_it_is(lab: Lab, room: Room) -> None:
    for path, parameters in pages(lab):
        page = page_at(path, **parameters)
        assert not page.get("file_uploader"), path
        assert not page.get("download_button") or path == "room", path
        before = store(lab)
        for name in kinds_of(page):
            page = page_at(path, **parameters)
            control = next(one for one in controls(page) if kind_of(one) == name)
            (control.click() if control.type == "button" else control.set_value(not control.value)).run()
            assert not page.exception, (path, name)
            assert store(lab) == before, (path, name)


def test_every_door_refuses_a_viewer_before_it_does_anything(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {f"{module}.{name}" for module, names in DOORS.items() for name in names.split()}
    assert guarded_functions() == found, "a door that is added is tried here"
    tried = set()
    for module, names in DOORS.items():
        for name in names.split():
            with monkeypatch.context() as patched:
                patched.setattr("app.rights._session", lambda: "a-session")  # as on a page
                act = _find(module, name)
                nothing = dict.fromkeys(inspect.signature(act).parameters)
                with pytest.raises(LabError) as refused:
                    act(**nothing)
            assert refused.value.kind == "not-allowed", (module, name)
            tried.add(f"{module}.{name}")
    assert tried == found


def _find(module: str, name: str) -> Callable[..., Any]:
    """The function or method of this name that is written in a module."""
    home = importlib.import_module(module)
    places = [vars(home), *(vars(one) for _, one in inspect.getmembers(home, inspect.isclass))]
    return next(place[name] for place in places if getattr(place.get(name), "__module__", "") == module)  # type: ignore[no-any-return]


def guarded_functions() -> set[str]:
    """Every function of the house that asks for a right, read from the sources."""
    found = set()
    for path in sorted(HOUSE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(_is_needs(one) for one in node.decorator_list):
                found.add(f"app.{'.'.join(path.relative_to(HOUSE).with_suffix('').parts)}.{node.name}")
    return found


def _is_needs(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "needs"


def test_viewers_have_no_right_but_to_ask_for_runs_where_the_presenter_allows_it(lab: Lab, room: Room) -> None:
    anybody = Visitor(VIEWER, ANNA)
    assert rights_of(anybody) == frozenset()
    as_presenter(room, lambda: room.allow_starts(True))
    assert rights_of(anybody) == frozenset({Right.START})


def test_viewers_have_no_sql_page_and_no_panel_until_they_may_start(lab: Lab, room: Room) -> None:
    page = page_at("live", run=run_of(lab))
    assert "The presenter starts the runs" in said(page)
    assert not {"start", "room-start", "flip", "cancel"} & {str(one.key) for one in page.button}
    as_presenter(room, lambda: room.allow_starts(True))
    page = page_at("live", run=run_of(lab))
    assert not page.text_input, "no setting takes a path"
    before = lab.home.run_ids()
    page.button(key="room-start").click().run()
    assert "Your run is queued" in page.success[0].value
    [asked] = set(lab.home.run_ids()) - set(before)
    as_presenter(room, lambda: lab.queue.cancel(asked))


def test_a_viewer_predicts_for_the_room_and_starts_nothing(lab: Lab, room: Room) -> None:
    before = lab.home.experiment_ids()
    page = page_at("learn", lesson="batching", learner=LEARNER)
    page.radio(key="predict-batching-0-answer").set_value(1).run()
    page.button(key="commit").click().run()
    assert "The runs begin when the presenter begins them" in said(page)
    assert room.predictions("batching", 0)[ANNA].predicted == 1
    assert lab.home.experiment_ids() == before
    assert not room.predictions("batching", 0).get(LEARNER), "the address names no other learner here"
    assert "Predict first" not in said(page_at("learn", lesson="batching"))


def test_speaker_notes_are_not_for_viewers(lab: Lab, room: Room) -> None:
    step = lessons.lesson("batching").steps[0]
    assert step.notes
    page = page_at("learn", lesson="batching", step="1", notes="yes")
    assert "the presenter's" in said(page)
    assert step.notes.split(".")[0] not in said(page)
    assert step.notes.split(".")[0] in as_presenter(
        room, lambda: said(page_at("learn", lesson="batching", notes="yes"))
    )


def test_the_rooms_answers_stay_hidden_until_the_presenter_shows_them_or_the_reveal(lab: Lab, room: Room) -> None:
    step = lessons.lesson(LESSON).steps[0]
    for member, value in ((ANNA, 4.0), (BEN, 2.0)):
        room.predict(member, LESSON, 0, step, value)
    hidden = page_at("learn", lesson=LESSON)
    assert "What the room predicted" not in said(hidden)
    as_presenter(room, lambda: room.open_histogram(LESSON, 0, True))
    assert "2 predictions" in said(page_at("learn", lesson=LESSON))
    as_presenter(room, lambda: room.open_histogram(LESSON, 0, False))
    assert "What the room predicted" not in said(page_at("learn", lesson=LESSON))
    committed = read_progress(lab.home, LEARNER).of(LESSON)[0]
    as_presenter(room, lambda: room.begin(LESSON, 0, committed))
    revealed = said(page_at("learn", lesson=LESSON, step="1"))
    assert "What the room predicted" in revealed
    assert "You predicted" in revealed
    assert "Right: it lies within" in revealed


def test_the_presenter_sees_who_answered_and_shares_runs_that_were_there(lab: Lab) -> None:
    with room_in(lab.home, None) as room:
        room.predict(BEN, LESSON, 0, lessons.lesson(LESSON).steps[0], 2.0)
        page = page_at("learn", lesson=LESSON, learner=LEARNER, step="1")
        assert "1 prediction, open" in said(page)
        assert "What the room predicted" not in said(page), "hidden from the projector, too"
        page.button(key="room-share").click().run()
        assert room.question(LESSON, 0).experiment_id
        assert "What the room predicted" in said(page)
        room.end()


def test_a_hand_out_has_what_was_predicted_measured_and_why_and_no_markup_of_anybody(lab: Lab, room: Room) -> None:
    room.call(ANNA, MARKUP)
    room.predict(ANNA, LESSON, 0, lessons.lesson(LESSON).steps[0], 4.0)
    assert "were not over" in handout(lab, room, ANNA).decode()
    committed = read_progress(lab.home, LEARNER).of(LESSON)[0]
    as_presenter(room, lambda: room.begin(LESSON, 0, committed))
    text = handout(lab, room, ANNA).decode()
    assert "Right: it lies within the measured interval." in text
    assert "1 of them right" in text
    assert "<img" not in text
    assert "&lt;img src=x" in text
    assert BEN not in text
    page = page_at("room")
    assert "places" in said(page).lower() or page.table


def test_the_presenter_exports_the_rooms_results(lab: Lab, room: Room) -> None:
    room.call(ANNA, "=HYPERLINK(1)")
    room.predict(ANNA, LESSON, 0, lessons.lesson(LESSON).steps[0], 4.0)
    table = as_presenter(room, lambda: as_csv(lab, room)).decode()
    assert table.splitlines()[0].startswith("member,name,lesson")
    assert "'=HYPERLINK(1)" in table or ",=HYPERLINK" not in table
    [row] = json.loads(as_presenter(room, lambda: as_json(lab, room)))["answers"]
    assert (row["member"], row["lesson"], row["step"], row["outcome"]) == (1, LESSON, 1, "not revealed")
    assert ANNA not in table, "a member's own name in the room stays in the lab"


def test_the_presenters_page_has_both_links_a_code_and_the_switch(lab: Lab) -> None:
    with room_in(lab.home, None) as room:
        room.address = lambda token: f"http://lab/?token={token}"
        page = page_at("room")
        codes = [one.value for one in page.code]
        assert f"http://lab/?token={room.kept.viewers_token}" in codes
        assert f"http://lab/?token={room.kept.presenters_token}" in codes
        page.toggle(key="room-may-start").set_value(True).run()
        assert room.kept.viewers_may_start
        page.button(key="room-end").click().run()
        assert room.is_over
    assert qr_code("http://lab/?token=x").startswith(b"\x89PNG")
