"""Deleting a run that a comparison rests on: it is said before, the comparison says it after, and it can be had back or served again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.errors import LabError
from app.experiments.file import create_experiment, read_experiment, write_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.missing_runs import missing_runs, serve_again, what_rests_on, without
from app.experiments.plan import Experiment, Variant, plan
from app.exports.export import find_subject
from app.home import Home
from app.lab import Lab
from app.runs import trash
from app.views import missing as views
from store import queries
from telemetry.json_file import write_json
from telemetry.status import write_status
from tests.app.lab_process import asked_here, lab_here, scenario_file
from tests.app.pages.test_page_live import LAB, texts
from tests.app.small_runs import served_experiment, wait_for

SIDES = (Variant("on", {"chunked_prefill.token_budget": "16"}), Variant("off", {"chunked_prefill": "off"}))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_here(tmp_path_factory.mktemp("pages")) as opened:
        yield opened


@pytest.fixture(scope="module")
def served(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A comparison of two repeats, whole and in the database."""
    experiment, specs = plan(str(scenario_file(tmp_path_factory.mktemp("scenario"))), SIDES, 2)
    served_experiment(lab.home, experiment, specs)
    runs = [turn.run_id for turn in read_experiment(lab.home, experiment.experiment_id).turns]
    wait_for(lambda: all(figures(lab, run_id) for run_id in runs))
    return experiment.experiment_id


def figures(lab: Lab, run_id: str) -> object:
    with lab.cursor() as con:
        return (queries.run(con, run_id) or {}).get("figures")


def page_at(path: str = "", **parameters: str) -> AppTest:
    page = AppTest.from_file(LAB, default_timeout=60)
    for name, value in parameters.items():
        page.query_params[name] = value
    if path:
        page.switch_page(f"pages/{path}.py")
    return page.run()


def test_compare_says_which_run_is_gone_and_brings_it_back(lab: Lab, served: str) -> None:
    run_id = read_experiment(lab.home, served).runs_of("off")[1]
    assert "deleted" not in texts(page_at("compare", experiment=served))
    lab.delete(run_id)
    wait_for(lambda: not figures(lab, run_id))
    page = page_at("compare", experiment=served)
    assert not page.exception
    said = texts(page).replace("\\", "")
    assert (
        f"1 run of this comparison deleted: repeat 2 of off ({run_id}). Of 2 repeats what is below rests on 1." in said
    )
    assert "Reading" not in said
    assert "Intervals of 95 %" in said, "what is left is judged"
    page.button(key="missing-restore").click().run()
    wait_for(lambda: figures(lab, run_id))
    assert "deleted" not in texts(page_at("compare", experiment=served))


def test_with_no_repeat_left_compare_says_so_and_serves_again_what_is_gone_for_good(lab: Lab, served: str) -> None:
    before = read_experiment(lab.home, served)
    for run_id in before.runs_of("on"):
        lab.delete(run_id)
        trash.delete_for_good(lab.home, run_id)
    page = page_at("compare", experiment=served)
    assert "no repeat is left that every side has" in texts(page)
    page.button(key="missing-again").click().run()
    wait_for(lambda: read_experiment(lab.home, served).state == "finished")
    after = read_experiment(lab.home, served)
    assert after.complete_repeats() == 2
    assert not set(after.runs_of("on")) & set(before.runs_of("on"))
    assert after.runs_of("off") == before.runs_of("off")


def test_the_page_of_a_deleted_run_brings_it_back(lab: Lab, served: str) -> None:
    run_id = read_experiment(lab.home, served).runs_of("off")[0]
    lab.delete(run_id)
    page = page_at(run=run_id)
    assert f"The run {run_id} was deleted; it is in the trash." in texts(page).replace("\\", "")
    page.button(key="bring-back").click().run()
    assert lab.home.run_dir(run_id).is_dir()


def test_a_deletion_is_offered_back_after_a_reload_and_the_trash_is_at_hand(lab: Lab, served: str) -> None:
    first, second = read_experiment(lab.home, served).runs_of("off")
    lab.delete(first)
    lab.delete(second)
    page_at("runs").button(key="undo-delete").click().run()
    assert (lab.home.trashed_ids(), lab.home.run_dir(second).is_dir()) == ([first], True)
    page = page_at("runs")
    assert page.selectbox(key="trashed").options == [page.selectbox(key="trashed").options[0]]
    page.button(key="trash-restore").click().run()
    assert lab.home.run_dir(first).is_dir()
    lab.delete(first)
    page_at("runs").button(key="trash-remove").click().run()
    assert lab.home.trashed_ids() == []
    assert "undo-delete" not in [button.key for button in page_at("runs").button]


def test_rows_that_do_not_come_are_said_to_after_a_while(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(views.st, "caption", said.append)
    monkeypatch.setattr(views.st, "warning", lambda words, **_: said.append(words.replace("\\", "")))
    monkeypatch.setitem(lab.collector.problems, "lost", "slice.arrow is damaged at byte 3")
    now = views.time.monotonic()
    views.say_waiting(lab, ["lost"], now)
    views.say_waiting(lab, ["lost"], now - 2 * views.PATIENCE_S)
    assert said[0] == "Reading the last rows of 1 run"
    assert said[1] == "The last rows of lost do not come. slice.arrow is damaged at byte 3"


# ---- without a lab ---------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def planned(home: Home, tmp_path: Path) -> Experiment:
    """A finished experiment of three repeats whose runs are folders with nothing served in them."""
    experiment, specs = plan(str(scenario_file(tmp_path)), SIDES, 3)
    turns = []
    for index, turn in enumerate(experiment.turns):
        turns.append(replace(turn, run_id=f"{experiment.experiment_id}-{index:03d}", done=True, attempts=1))
        folder = home.run_dir(turns[-1].run_id)
        folder.mkdir()
        write_json(folder / "spec.json", {"title": f"run {index}", "experiment_id": experiment.experiment_id})
        write_status(folder, state="finished")
    experiment = replace(experiment, turns=tuple(turns), state="finished")
    create_experiment(home, experiment, specs)
    return experiment


def test_without_a_run_its_repeat_is_left_out_on_every_side(home: Home, planned: Experiment) -> None:
    gone = planned.runs_of("off")[1]
    trash.delete_run(home, gone)
    (missing,) = missing_runs(home, planned)
    assert (missing.turn.run_id, missing.turn.repeat, missing.in_trash) == (gone, 1, True)
    left = without(planned, [missing])
    assert left.complete_repeats() == 2
    for name in ("on", "off"):
        assert left.runs_of(name) == [planned.runs_of(name)[0], planned.runs_of(name)[2]]
    exported = find_subject(home, planned.experiment_id)
    assert sorted(exported.runs) == sorted(left.runs_of("on") + left.runs_of("off"))
    assert exported.runs[planned.runs_of("on")[2]] == "on, repeat 3"


def test_a_warm_up_is_missed_by_nobody(home: Home, planned: Experiment) -> None:
    warm_up = next(turn.run_id for turn in planned.turns if turn.warm_up)
    assert what_rests_on(home, warm_up, planned.experiment_id) is None
    trash.delete_run(home, warm_up)
    assert missing_runs(home, planned) == ()


def test_what_rests_on_a_run_is_said_before_it_is_deleted(home: Home, planned: Experiment) -> None:
    first, second, _ = planned.runs_of("off")
    said = what_rests_on(home, first, planned.experiment_id)
    assert said is not None
    assert said.startswith("This is repeat 1 of off in")
    assert said.endswith("Without it the comparison rests on 2 of 3 repeats.")
    told = asked_here(home, "delete", first)
    assert "Without it the comparison rests on 2 of 3 repeats." in told.stdout + told.stderr
    assert "rests on 1 of 3 repeats" in str(what_rests_on(home, second, planned.experiment_id))
    assert what_rests_on(home, "some-run", None) is None
    assert what_rests_on(home, "some-run", "x-gone") is None


def test_only_what_is_gone_for_good_is_served_again(home: Home, planned: Experiment) -> None:
    kept, lost, _ = planned.runs_of("on")
    for run_id in (kept, lost):
        trash.delete_run(home, run_id)
    trash.delete_for_good(home, lost)
    again = serve_again(home, planned.experiment_id)
    assert again.state == "running"
    open_turns = [turn for turn in again.turns if not turn.done]
    assert [(turn.variant, turn.repeat, turn.run_id, turn.attempts) for turn in open_turns] == [("on", 1, "", 1)]


def test_the_command_line_judges_what_is_left_or_says_that_nothing_is(home: Home, planned: Experiment) -> None:
    for run_id in planned.runs_of("on"):
        trash.delete_run(home, run_id)
    with pytest.raises(LabError, match="No repeat of this experiment is finished on every side"):
        result_of_experiment(home, planned.experiment_id)


def test_a_queued_run_of_a_comparison_that_goes_on_is_served_again(home: Home, planned: Experiment) -> None:
    last = planned.turns[-1].run_id
    waiting = replace(planned, state="running", turns=(*planned.turns[:-1], replace(planned.turns[-1], done=False)))
    write_experiment(home, waiting)
    assert "it will be served again" in str(what_rests_on(home, last, planned.experiment_id))
