"""The pages as Streamlit runs them, before a real lab of this process: what is drawn, what is refused, what stays text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.experiments.file import create_experiment
from app.experiments.plan import Variant, plan
from app.home import EXPERIMENT_FILE, Home
from app.lab import Lab, set_lab
from app.locks import LabAddress
from app.runs.folder import create_run, read_spec
from app.runs.notes import write_notes
from app.server.serve import PAGE
from app.settings import controls as book
from app.words.text import PARTS
from engine.config import EngineConfig
from scenarios import build
from store import queries
from telemetry.status import read_status, state, write_status
from tests.app.lab_process import lab_here, scenario_file
from tests.app.small_runs import small_spec, wait_for, wait_for_state
from tests.open_form import open_sections

LAB = str(PAGE)
PLANTED = "<script id='planted'>alert(1)</script>"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_here(tmp_path_factory.mktemp("pages")) as opened:
        yield opened


@pytest.fixture(scope="module")
def done(lab: Lab) -> str:
    """A finished run with a planted title and prompt, in the database."""
    spec = small_spec("done", requests=3, tokens=6)
    requests = (
        spec.requests[0].model_copy(update={"prompt": PLANTED, "prompt_token_ids": None}),
        *spec.requests[1:],
    )
    lab.submit(spec.model_copy(update={"title": PLANTED, "requests": requests}))
    wait_for_state(lab.home, "done", "finished")
    wait_for(lambda: stored_state(lab, "done") == "finished")
    return "done"


def stored_state(lab: Lab, run_id: str) -> str | None:
    with lab.cursor() as con:
        row = queries.run(con, run_id)
    return None if row is None else str(row["state"])


def opened(run: str | None = None, *, further: bool = False, **parameters: str) -> AppTest:
    """``further``: the seldom changed settings are drawn, too."""
    page = open_sections(AppTest.from_file(LAB, default_timeout=60), open=further)
    for name, value in (({"run": run} if run else {}) | parameters).items():
        page.query_params[name] = value
    return page.run()


def texts(page: AppTest) -> str:
    kinds = (page.markdown, page.caption, page.title, page.error, page.info, page.warning)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def test_the_page_has_a_control_for_every_setting(lab: Lab, done: str) -> None:
    page = opened(done, further=True)
    assert not page.exception
    keys = {
        element.key for kind in (page.toggle, page.selectbox, page.number_input, page.multiselect) for element in kind
    }
    keys |= {element.key for element in page.text_input}
    off = tuple(
        f"{t.path}." for t in book.techniques() if getattr(EngineConfig(), t.path) is None
    )  # their parts are hidden
    assert {f"set:starter:{control.path}" for control in book.controls() if not control.path.startswith(off)} <= keys


def test_every_control_has_help(lab: Lab, done: str) -> None:
    page = opened(done, further=True)
    for kind in (page.toggle, page.selectbox, page.number_input, page.multiselect):
        for element in kind:
            if str(element.key).startswith("set:"):
                assert element.help, element.key


def test_switching_chunked_prefill_off_hides_its_settings_and_keeps_them(lab: Lab, done: str) -> None:
    page = opened(done)
    budget = "set:starter:chunked_prefill.token_budget"
    page.number_input(key=budget).set_value(48).run()
    page.toggle(key="set:starter:chunked_prefill").set_value(False).run()
    assert budget not in {element.key for element in page.number_input}
    page.toggle(key="set:starter:chunked_prefill").set_value(True).run()
    assert page.number_input(key=budget).value == 48


def test_an_impossible_value_is_named_beside_its_control_and_stops_the_start(lab: Lab, done: str) -> None:
    page = opened(done)
    page.number_input(key="set:starter:max_num_seqs").set_value(0).run()
    assert any(
        str(error.value).replace("\\", "").startswith("0: It is too small. It must be a whole number, at least 1")
        for error in page.error
    )
    assert page.button(key="start").disabled
    assert page.number_input(key="set:starter:max_num_seqs").value == 0
    page.button(key="reset:max_num_seqs").click().run()
    assert page.number_input(key="set:starter:max_num_seqs").value == 16
    assert not page.button(key="start").disabled


def test_a_changed_setting_is_marked_and_one_button_undoes_all(lab: Lab, done: str) -> None:
    page = opened(done)
    page.number_input(key="set:starter:seed").set_value(7).run()
    assert "the scenario has 0" in page.button(key="reset:seed").label
    page.button(key="reset-all").click().run()
    assert page.number_input(key="set:starter:seed").value == 0
    assert "reset-all" not in {button.key for button in page.button}


def test_settings_are_kept_apart_for_each_scenario(lab: Lab, done: str) -> None:
    page = opened(done)
    page.number_input(key="set:starter:seed").set_value(7).run()
    page.selectbox(key="scenario").set_value("chat").run()
    assert page.number_input(key="set:chat:seed").value == 0
    page.selectbox(key="scenario").set_value("starter").run()
    assert page.number_input(key="set:starter:seed").value == 7


def test_start_queues_the_run_with_the_changes_and_turns_the_page_to_it(lab: Lab, done: str) -> None:
    page = opened(done)
    page.selectbox(key="scenario").set_value("chat").run()
    page.selectbox(key="set:chat:model").set_value("random:tiny").run()
    page.toggle(key="set:chat:chunked_prefill").set_value(False).run()
    before = set(lab.home.run_ids())
    page.button(key="start").click().run()
    (run_id,) = set(lab.home.run_ids()) - before
    try:
        assert run_id in page.query_params["run"]
        spec = read_spec(lab.home.run_dir(run_id))
        assert (spec.scenario, spec.engine.model, spec.engine.chunked_prefill) == ("chat", "random:tiny", None)
    finally:
        lab.queue.cancel(run_id)
        wait_for(lambda: state(read_status(lab.home.run_dir(run_id))) in ("cancelled", "finished"))


def test_a_finished_run_shows_figures_charts_and_requests(lab: Lab, done: str) -> None:
    page = opened(done)
    assert not page.exception
    assert {tab.label for tab in page.tabs} == set(PARTS)
    assert len(page.get("plotly_chart")) == 8
    assert next(metric.value for metric in page.metric if metric.label == "Requests done") == "3 of 3"
    assert "random weights" in texts(page)


def test_only_the_open_tab_of_a_finished_run_is_drawn(lab: Lab, done: str) -> None:
    drawn = {
        tab: len(opened(done, tab=tab).get("plotly_chart")) for tab in ("Charts", "Explained", "KV cache", "Setup")
    }
    assert drawn == {"Charts": 8, "Explained": 1, "KV cache": 1, "Setup": 0}


def test_a_step_of_a_run_is_explained_and_another_one_on_request(lab: Lab, done: str) -> None:
    page = opened(done, tab="Explained")
    said = texts(page)
    assert "What one token costs" in said
    assert "3 tokens to 3 requests" in said
    assert "2 × " in "".join(str(table.value) for table in page.table)
    page.slider(key=f"explained-{done}").set_value(0).run()
    assert not page.exception
    assert "Step 0 computed" in texts(page)
    page.number_input(key=f"explained-prompt-{done}").set_value(1_000_000).run()
    assert "0 such requests at once" in texts(page)


def test_a_run_with_prefix_sharing_shows_what_it_gave(lab: Lab, done: str) -> None:
    lab.submit(small_spec("shared", requests=4, tokens=6, prefix_sharing={}))
    wait_for_state(lab.home, "shared", "finished")
    wait_for(lambda: stored_state(lab, "shared") == "finished")
    page = opened("shared")
    assert not page.exception
    assert "Prefix sharing" in {heading.value for heading in page.subheader}
    assert len(page.get("plotly_chart")) == 8 + 4
    assert "in use" in texts(page)
    (slider,) = (s for s in page.slider if s.key == "prefix-at-shared")
    slider.set_value(0).run()
    assert not page.exception


def test_a_run_that_swapped_shows_what_it_copied(lab: Lab, done: str) -> None:
    lab.submit(small_spec("swapped", requests=4, tokens=40, preemption={}, kv_blocks=9))
    wait_for_state(lab.home, "swapped", "finished")
    wait_for(lambda: stored_state(lab, "swapped") == "finished")
    page = opened("swapped")
    assert not page.exception
    assert "KV swapping" in {heading.value for heading in page.subheader}
    assert len(page.get("plotly_chart")) == 8 + 5
    said = texts(page)
    assert "swapped out" in said
    assert "index over 4 sessions" in said, [line for line in said.splitlines() if "ession" in line]


def test_a_run_with_contiguous_kv_shows_what_memory_was_used_for(lab: Lab, done: str) -> None:
    lab.submit(small_spec("laid", requests=4, tokens=20, kv_layout={}))
    wait_for_state(lab.home, "laid", "finished")
    wait_for(lambda: stored_state(lab, "laid") == "finished")
    page = opened("laid")
    assert not page.exception
    assert "Contiguous KV" in {heading.value for heading in page.subheader}
    assert len(page.get("plotly_chart")) == 8 + 2
    said = texts(page)
    assert "held computed tokens" in said
    assert "MB were resident" in said


def test_the_flip_runs_the_same_requests_with_one_switch_turned(lab: Lab, done: str) -> None:
    from app.runs.facts import comparable_runs, differences, load_run

    page = opened(done)
    before = set(lab.home.run_ids())
    page.button(key="flip").click().run()
    (run_id,) = set(lab.home.run_ids()) - before
    first, second = load_run(lab.home, done), load_run(lab.home, run_id)
    assert second.spec.workload_hash == first.spec.workload_hash
    assert differences(first.spec.engine, second.spec.engine) == ["chunked prefill on"]
    wait_for_state(lab.home, run_id, "finished")
    wait_for(lambda: stored_state(lab, run_id) == "finished")
    with lab.cursor() as con:
        assert [run.run_id for run in comparable_runs(lab.home, second, queries.runs(con))] == [done]
    shown = opened(run_id)
    assert "Before" in texts(shown)
    assert "chunked prefill on" in texts(shown)


def test_planted_markup_in_title_and_prompt_is_drawn_as_text(lab: Lab, done: str) -> None:
    for tab in ("Charts", "Requests", "Iterations"):
        page = opened(done, tab=tab)
        assert page.title[0].value.replace("\\", "") == PLANTED
        assert "\\<script" in page.title[0].value
        for element in page.markdown:
            assert "<script" not in element.value.replace("\\<", "")


def test_an_unknown_run_is_named_with_its_nearest(lab: Lab, done: str) -> None:
    page = opened("don")
    assert not page.exception
    assert "There is no run" in texts(page)
    assert "done" in texts(page)


@pytest.mark.parametrize("run", ["../../etc/passwd", "A B", "x" * 100, "<b>", "%2e%2e"])
def test_an_address_that_is_no_run_id_is_refused_in_words(lab: Lab, done: str, run: str) -> None:
    page = opened(run)
    assert not page.exception
    assert "is not a run id" in texts(page).replace("\\", "")


def test_a_crashed_run_says_why_and_what_to_change(lab: Lab, done: str) -> None:
    create_run(lab.home, small_spec("broken"), supervisor=None)
    lab.queue.cancel("broken")
    error = {
        "kind": "crashed",
        "field": "run",
        "value": "broken",
        "message": "It ended early.",
        "mend": "Use fewer blocks.",
    }
    write_status(lab.home.run_dir("broken"), state="crashed", error=error, labels=["unfinished"])
    page = opened("broken")
    assert not page.exception
    said = texts(page).replace("\\", "")
    assert "It ended early. Use fewer blocks." in said
    assert "unfinished" in said


def test_a_run_that_failed_before_it_began_has_no_empty_charts_and_no_button_to_fail_again(lab: Lab, done: str) -> None:
    spec = small_spec("too-small", requests=3)
    engine = spec.engine.model_copy(update={"kv_blocks": 1, "block_size": 4})
    page = opened(done)
    lab.submit(spec.model_copy(update={"engine": engine}))
    page.query_params["run"] = "too-small"
    page.session_state["watched"] = "too-small"
    wait_for_state(lab.home, "too-small", "failed")
    wait_for(lambda: stored_state(lab, "too-small") == "failed")
    page.run()
    assert not page.exception
    assert "KV blocks = 1: request" in texts(page).replace("\\", "")
    assert "0 or less" not in texts(page)
    assert "flip" not in {button.key for button in page.button}
    assert next(metric.value for metric in page.metric if metric.label == "Requests done") == "0 of 3"
    assert "No iteration was recorded" in texts(page)


def test_the_list_holds_experiments_and_runs_and_an_address_narrows_it(lab: Lab, done: str, tmp_path: Path) -> None:
    experiment, specs = plan(str(scenario_file(tmp_path)), (Variant("a"), Variant("b")), 1)
    create_experiment(lab.home, replace(experiment, state="paused"), specs)
    write_notes(lab.home, experiment.experiment_id, name=PLANTED, tags=["for the talk"])
    write_notes(lab.home, done, tags=["for the talk", "other"])

    def listed(**asked: str) -> dict[str, str]:
        page = AppTest.from_file(LAB, default_timeout=60)
        page.switch_page("pages/runs.py")
        for name, value in asked.items():
            page.query_params[name] = value
        page.run()
        assert not page.exception
        table = page.dataframe[0].value
        return dict(zip(table["id"], table["kind"], strict=True))

    whole = {experiment.experiment_id: "comparison", done: "run"}
    assert whole.items() <= listed().items()
    assert listed(tag="for the talk") == whole
    assert listed(tag="for the talk", kind="comparison") == {experiment.experiment_id: "comparison"}
    assert listed(words="planted comparison") == {experiment.experiment_id: "comparison"}


def test_with_an_empty_store_the_page_says_what_to_do(tmp_path: Path, lab: Lab) -> None:
    empty = Lab(Home(tmp_path).prepare(), LabAddress.fresh("127.0.0.1", 0))
    set_lab(empty)
    try:
        page = opened()
        assert not page.exception
        assert page.title[0].value == "Nothing has run yet"
        assert not page.button(key="start").disabled
        page.selectbox(key="scenario").set_value("chat").run()
        page.number_input(key="set:chat:max_num_seqs").set_value(0).run()
        assert page.button(key="start-first").disabled
        page.number_input(key="set:chat:max_num_seqs").set_value(4).run()
        page.selectbox(key="set:chat:model").set_value("random:tiny").run()
        empty.start()
        page.button(key="start-first").click().run()
        (run_id,) = empty.home.run_ids()
        assert run_id in page.query_params["run"]
        spec = read_spec(empty.home.run_dir(run_id))
        assert (spec.scenario, spec.engine.max_num_seqs) == ("chat", 4)
    finally:
        empty.stop()
        set_lab(lab)


def test_the_panel_turns_to_the_scenario_of_the_run_that_is_opened_and_leaves_the_choice_after(
    lab: Lab, done: str
) -> None:
    spec = build("chat", {"model": "random:tiny"})
    create_run(lab.home, spec)
    lab.queue.cancel(spec.run_id)
    page = opened(spec.run_id)
    assert page.selectbox(key="scenario").value == "chat"
    page.selectbox(key="scenario").set_value("burst").run()
    assert page.selectbox(key="scenario").value == "burst"


def test_a_run_whose_spec_is_damaged_is_deleted_on_its_page_and_can_be_brought_back(lab: Lab, done: str) -> None:
    folder = lab.home.run_dir("damaged-run")
    folder.mkdir()
    (folder / "spec.json").write_text("{")
    write_status(folder, state="finished")
    page = opened("damaged-run")
    page.button("delete-damaged").click().run()
    assert not page.exception
    assert page.query_params.get("run") != ["damaged-run"], "the page goes on to another run"
    assert not folder.exists()
    assert "damaged-run" in lab.home.trashed_ids()


def test_an_experiment_whose_plan_is_damaged_is_deleted_on_its_page(lab: Lab, done: str) -> None:
    folder = lab.home.experiments / "x-damaged"
    folder.mkdir(parents=True)
    (folder / EXPERIMENT_FILE).write_text("{")
    page = AppTest.from_file(LAB, default_timeout=60)
    page.switch_page("pages/compare.py")
    page.query_params["experiment"] = "x-damaged"
    page.run()
    page.button("delete-damaged").click().run()
    assert not page.exception
    assert not folder.exists()
    assert "x-damaged" in lab.home.trashed_ids()


def test_what_will_be_asked_is_shown_before_anything_runs(lab: Lab) -> None:
    page = AppTest.from_file(LAB, default_timeout=60)
    page.query_params["scenario"] = "agents"
    page.run()
    assert "come by the clock" not in texts(page), "nothing is worked out while it is closed"
    page.session_state["preview"] = True
    page.run()
    assert not page.exception
    assert "40 requests, about" in texts(page)
    assert "30 after an answer" in texts(page)
    assert {"**Arrivals**", "**Most tokens of answers**"} <= {str(element.value) for element in page.markdown}


def test_the_list_of_runs_has_figures_filters_and_folds_warm_ups(lab: Lab, done: str) -> None:
    warm = small_spec("warm-up-run").model_copy(update={"labels": ("warm-up",)})
    create_run(lab.home, warm)
    lab.queue.cancel(warm.run_id)
    page = AppTest.from_file(LAB, default_timeout=60)
    page.switch_page("pages/runs.py").run()
    assert not page.exception
    table = page.dataframe[0].value
    assert warm.run_id not in set(table["id"])
    assert table.set_index("id").loc[done]["output tokens/s"] > 0
    page.toggle(key="run-warm-ups").set_value(True)
    page.multiselect(key="run-columns").set_value(["itl_ms.p50"]).run()
    table = page.dataframe[0].value
    assert warm.run_id in set(table["id"])
    assert "ITL p50, ms" in table
    assert "output tokens/s" not in table
    page.multiselect(key="run-states").set_value(["cancelled"]).run()
    assert done not in set(page.dataframe[0].value["id"])


def test_a_run_is_exported_from_its_own_page(lab: Lab, done: str) -> None:
    page = AppTest.from_file(LAB, default_timeout=60)
    page.query_params["run"] = done
    page.query_params["tab"] = "Setup"
    page.run()
    assert not page.exception
    assert [button.label for button in page.get("download_button")][-4:] == ["Page", "All rows", "Trace", "Figures"]
