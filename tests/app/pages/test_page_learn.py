"""The Learn page as Streamlit runs it: the list, predictions of every kind, what runs, what it says, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.experiments.file import read_experiment, write_experiment
from app.lab import Lab
from app.lessons.progress import Committed, commit, read_progress
from app.lessons.reveal import OUTCOMES
from app.views.missing import rows_of
from app.words.plain import plain
from scenarios import lessons
from tests.app.lab_process import lab_here
from tests.app.lessons.small_lesson import LEARNER, served_step, small_lesson
from tests.app.pages.test_page_papers import page_at, said
from tests.app.small_runs import wait_for

BUILT_IN = sorted(path.stem for path in lessons.folder().glob("*.yaml"))


@pytest.fixture(autouse=True)
def lab(tmp_path: Path) -> Iterator[Lab]:
    with lab_here(tmp_path, serves_experiments=False) as opened:
        yield opened


def learn(**parameters: str) -> AppTest:
    return page_at("learn", learner=LEARNER, **parameters)


def keys(page: AppTest) -> set[str]:
    return {str(button.key) for button in page.button}


def press(page: AppTest, key: str) -> AppTest:
    page.button(key=key).click().run()
    assert not page.exception
    return page


def read_in(lab: Lab, experiment_id: str) -> None:
    """Wait until the database has the experiment's rows."""
    experiment = read_experiment(lab.home, experiment_id)
    for turn in experiment.turns:
        lab.collector.notify(turn.run_id)
    wait_for(lambda: not rows_of(lab, [experiment]))


def test_the_list_has_every_lesson_and_says_what_to_do_first() -> None:
    page = learn()
    assert {f"open-{name}" for name in BUILT_IN} <= keys(page)
    first = next(iter(lessons.lessons()[0]))
    assert next(button.key for button in page.button if button.label == "Begin") == f"open-{first}"
    assert "Predict, then run the real engine" in said(page)


def test_a_browser_that_has_not_said_its_name_yet_sees_a_line_and_no_form() -> None:
    page = page_at("learn")
    assert "Looking for what this browser has learned" in said(page)
    assert not keys(page)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_step_shows_its_question_and_nothing_of_a_result(name: str) -> None:
    page = learn(lesson=name)
    step = lessons.lesson(name).steps[0]
    text = said(page)
    assert step.predict.ask in text
    assert "commit" in keys(page)
    assert not page.get("plotly_chart") or step.predict.kind == "curve"
    assert not any(words in text for words in OUTCOMES.values())


def test_a_later_step_is_not_shown_before_the_one_before_it() -> None:
    page = learn(lesson="decoding", step="2")
    assert lessons.lesson("decoding").steps[0].predict.ask in said(page)
    assert page.button(key="step-2").disabled


def test_without_a_prediction_nothing_begins(lab: Lab) -> None:
    page = press(learn(lesson="decoding"), "commit")
    assert "Predict first" in said(page)
    assert lab.home.experiment_ids() == []


def test_a_number_out_of_range_is_refused_with_the_range(lab: Lab) -> None:
    page = learn(lesson="decoding")
    page.number_input(key="predict-decoding-0-number").set_value(99.0).run()
    press(page, "commit")
    assert "from 0.5 to 20 times" in said(page)
    assert lab.home.experiment_ids() == []


def test_a_committed_prediction_stands_fixed_and_its_runs_begin(lab: Lab) -> None:
    page = learn(lesson="batching")
    page.radio(key="predict-batching-0-answer").set_value(2).run()
    press(page, "commit")
    (experiment_id,) = lab.home.experiment_ids()
    assert read_experiment(lab.home, experiment_id).title.startswith("Lesson: Continuous batching")
    text = said(page)
    assert "You predicted: **Up to one and a half times as much**" in text
    assert "commit" not in keys(page)
    assert not page.radio
    again = learn(lesson="batching", step="1")
    assert "You predicted: **Up to one and a half times as much**" in said(again), "a reload finds it"


def test_stopped_and_failed_runs_can_go_on_or_begin_again(lab: Lab) -> None:
    page = learn(lesson="batching")
    page.radio(key="predict-batching-0-answer").set_value(0).run()
    press(page, "commit")
    (experiment_id,) = lab.home.experiment_ids()
    experiment = read_experiment(lab.home, experiment_id)
    write_experiment(lab.home, replace(experiment, state="paused"))
    page = learn(lesson="batching")
    assert {"resume", "serve-again"} <= keys(page)
    write_experiment(lab.home, replace(experiment, state="failed", problem="The engine <b>fell</b>."))
    page = learn(lesson="batching")
    assert "The engine <b>fell</b>." in said(page)
    press(page, "serve-again")
    now = read_progress(lab.home, LEARNER).of("batching")[0]
    assert now.experiment_id != experiment_id
    assert now.predicted == 0
    lab.delete_experiment(experiment_id)
    write_experiment(lab.home, replace(read_experiment(lab.home, now.experiment_id), state="failed"))
    lab.delete_experiment(now.experiment_id)
    page = learn(lesson="batching")
    assert "are not there any more" in said(page)
    assert "serve-again" in keys(page)


def test_a_lesson_is_walked_with_a_wrong_and_a_right_prediction(lab: Lab) -> None:
    name = small_lesson(lab.home)
    read_in(lab, served_step(lab.home, name, 0, 1.0))
    page = learn(lesson=name, step="1")
    text = said(page)
    assert OUTCOMES["wrong"] in text
    assert "You said 1 times, and it was 4 times." in text
    assert "engine/scheduling/builder.py" in text
    assert any("def admit" in str(code.value) for code in page.code)
    assert len(page.get("plotly_chart")) == 1
    tried = press(learn(lesson=name, step="1"), f"try-{name}-0")
    assert tried.session_state["scenario"] == "chat"
    assert tried.session_state["set:chat:max_num_seqs"] == 4
    press(page, "next")
    page.selectbox(key=f"predict-{name}-1-place-0").set_value("few").run()
    page.selectbox(key=f"predict-{name}-1-place-1").set_value("many").run()
    press(page, "commit")
    assert "You predicted: **few < many**" in said(page)
    press(learn(lesson=name, step="1"), "begin-anew")
    assert read_progress(lab.home, LEARNER).of(name) == {}
    page = learn()
    assert "Begun anew: Places, 2 predictions taken away." in said(page)
    press(page, "undo-reset")
    assert set(read_progress(lab.home, LEARNER).of(name)) == {0, 1}
    assert OUTCOMES["wrong"] in said(learn(lesson=name, step="1"))


def test_a_step_that_the_teacher_changed_is_predicted_anew(lab: Lab) -> None:
    commit(lab.home, LEARNER, "decoding", 0, Committed(predicted=4.0, experiment_id="x-1", hash="as it was"))
    page = learn(lesson="decoding", step="1")
    assert "was changed after you predicted" in said(page)
    press(page, "predict-anew")
    assert "commit" in keys(page)


def test_large_type_stays_from_step_to_list(lab: Lab) -> None:
    page = press(learn(lesson="decoding"), "large-type")
    assert page.query_params["large"] == "yes"
    press(page, "all-lessons")
    assert set(page.query_params) == {"learner", "large"}


def test_a_projector_has_contrast_and_keys_that_a_page_for_one_reader_lacks(lab: Lab) -> None:
    name = small_lesson(lab.home)
    read_in(lab, served_step(lab.home, name, 0, 1.0))
    assert not learn(lesson=name, step="1").button(key="next").proto.shortcut, "Page Down scrolls"
    page = press(press(learn(lesson=name, step="1"), "large-type"), "high-contrast")
    assert page.button(key="next").proto.shortcut == "pagedown"
    press(page, "next")
    assert page.button(key="step-1").proto.shortcut == "pageup"
    press(page, "all-lessons")
    assert set(page.query_params) == {"learner", "large", "contrast"}


def test_the_second_window_has_the_notes_and_nothing_to_press(lab: Lab) -> None:
    step = lessons.lesson("decoding").steps[1]
    page = learn(lesson="decoding", step="2", notes="yes")
    assert step.notes is not None
    assert plain(step.notes) in "\n".join(one.value for one in page.markdown)
    assert step.predict.ask in said(page)
    assert not keys(page)
    assert "has no notes" in said(learn(lesson=small_lesson(lab.home), notes="yes"))
    assert "shows no lesson" in said(learn(lesson="<b>x</b>", notes="yes"))
    for strange in ("0", "-1", "99", "x", "²"):
        assert not learn(lesson="decoding", step=strange, notes="yes").exception


def test_a_token_of_the_runs_is_explained_with_their_own_figures(lab: Lab) -> None:
    name = small_lesson(lab.home)
    read_in(lab, served_step(lab.home, name, 0, 4.0))
    page = learn(lesson=name, step="1")
    assert "What one token costs" not in said(page)
    page.session_state["why-so"] = True
    page.run()
    assert not page.exception
    text = said(page)
    assert "What one token costs" in text
    assert "1 request in" in text
    page.segmented_control(key="explained-variant").set_value("wide").run()
    assert not page.exception
    assert "4 requests in" in said(page)


@pytest.mark.parametrize("name", ["decodin", "<b>bold</b>", "../decoding"])
def test_a_lesson_that_is_not_there_is_said_with_the_nearest(name: str) -> None:
    page = learn(lesson=name)
    assert "There is no lesson" in said(page)
    assert ("decoding" in said(page)) == (name != "<b>bold</b>")
    assert "all-lessons" in keys(page)


def test_a_damaged_lesson_and_damaged_progress_are_said_where_they_are(lab: Lab) -> None:
    lab.home.lessons.mkdir()
    (lab.home.lessons / "broken.yaml").write_text("title: <b>x</b>\nsumary: y", encoding="utf-8")
    page = learn()
    assert "broken.yaml" in said(page)
    assert {f"open-{name}" for name in BUILT_IN} <= keys(page)
    lab.home.learners.mkdir()
    (lab.home.learners / f"{LEARNER}.json").write_text("{", encoding="utf-8")
    assert "What was predicted cannot be read" in said(learn())
    assert "What was predicted cannot be read" in said(learn(lesson="decoding"))
