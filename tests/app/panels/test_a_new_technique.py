"""The promise: a technique is its own files and its registries. A policy and a panel from a module of a temporary folder
appear on the form, in ``--set``, in a comparison, on a run's page, in reports and in exports, and no file of ours knows them.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.experiments.drive import Driver
from app.experiments.file import create_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.plan import Variant, plan
from app.exports.export import export
from app.home import Home
from app.lab import Lab
from app.panels import PANELS
from app.runs.folder import create_run
from app.runs.process import SOURCE_ROOT
from app.server.serve import PAGE
from app.settings import controls as book
from app.settings.written import parse_settings
from engine import worker
from engine.config import POLICY_NAMES, EngineConfig, RunSpec, apply_overrides, load_plugins
from engine.scheduling.policies import POLICIES
from tests.app.lab_process import lab_here, scenario_file
from tests.app.small_runs import small_spec, wait_for, wait_for_state

TOY = '''
from app.panels import PANELS
from app.panels.panel import Panel, Words
from app.words.table import Table, figure_of, words_of
from engine.scheduling.policies import register
from engine.scheduling.policies.stall_free import StallFree


class Toy(StallFree):
    """As stall-free, under a name of its own."""

    name = "toy"


class ToyPanel(Panel):
    setting = "policy"
    words = Words(glossary={"Toy": "A policy that lives in a test."})

    def is_on(self, engine):
        return engine.policy == "toy"

    def draw_charts(self, run):
        import streamlit as st

        st.caption(f"The toy served {run.facts.run_id}.")

    def run_tables(self, con, run_id):
        return [Table("What the toy did", (words_of("run", "run"),), [{"run": run_id}])]

    def comparison_tables(self, con, run_ids, workload_hash):
        columns = (words_of("run", "run"), figure_of("toys", "toys"))
        return [Table("Toys compared", columns, [{"run": run_id, "toys": 1234} for run_id in run_ids])]


register(Toy)
PANELS.append(ToyPanel())
'''


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The module, imported before anything asks; its traces are taken away afterwards."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "toy_technique.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("SERVESCOPE_PLUGINS", "toy_technique")
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        assert "toy_technique" in load_plugins()
        book.controls.cache_clear()
        yield
    PANELS.pop()
    del POLICIES["toy"]
    POLICY_NAMES.remove("toy")
    book.controls.cache_clear()


@pytest.fixture(scope="module")
def compared(toy: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """Stall-free against the toy, served in this process."""
    folder = tmp_path_factory.mktemp("toy")
    home = Home(folder / "home").prepare()
    variants = (Variant("usual"), Variant("ours", parse_settings(["policy=toy"])))
    experiment, specs = plan(str(scenario_file(folder)), variants, 1)
    create_experiment(home, experiment, specs)

    def serve(spec: RunSpec) -> None:
        assert worker.run(create_run(home, spec)) == 0

    driver = Driver(home, experiment.experiment_id, serve)
    while (now := driver.step()).state == "running":
        pass
    driver.release()
    assert now.state == "finished", now.problem
    return home, experiment.experiment_id


@pytest.fixture(scope="module")
def lab(compared: tuple[Home, str]) -> Iterator[Lab]:
    with lab_here(compared[0].root) as opened:
        yield opened


def test_it_is_a_choice_of_the_command_line_and_of_the_form(toy: None, lab: Lab) -> None:
    assert apply_overrides(EngineConfig(), parse_settings(["policy=toy"])).policy == "toy"
    page = AppTest.from_file(str(PAGE), default_timeout=60)
    page.session_state["more-settings"] = True
    page.run()
    assert not page.exception
    assert "toy" in page.selectbox(key="set:starter:policy").options
    glossary = page.switch_page("pages/glossary.py").run()
    assert any("A policy that lives in a test" in table.value.to_string() for table in glossary.table)


def test_a_comparison_names_it_and_a_report_has_its_table(compared: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = compared
    result = result_of_experiment(home, experiment_id)
    assert result["differs"]["policy"]["ours"] == "toy"
    run_id = result["variants"]["ours"]["runs"][0]
    for name, heading, cell in (
        (experiment_id, "Toys compared", "<td>1,234</td>"),
        (run_id, "What the toy did", f"<td>{run_id}</td>"),
    ):
        export(home, name, tmp_path / "out.html")
        text = (tmp_path / "out.html").read_text()
        assert heading in text
        assert cell in text.split(heading)[1]


def test_what_is_exported_has_its_figures(compared: tuple[Home, str], tmp_path: Path) -> None:
    home, experiment_id = compared
    export(home, experiment_id, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert {row["variant"] for row in csv.DictReader(file)} == {"usual", "ours"}
    for ending in (".servescope", ".json"):
        assert export(home, experiment_id, tmp_path / f"out{ending}") > 0


def test_an_engine_process_of_its_own_serves_it(lab: Lab) -> None:
    """The worker imports what the environment names, as this process does; nothing else tells it of the module."""
    lab.submit(small_spec("toyed", policy="toy"))
    wait_for_state(lab.home, "toyed", "finished")


def test_the_command_line_knows_it_or_says_what_is_wrong(toy: None, tmp_path: Path) -> None:
    def scenarios(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app.cli", "run", "starter", "--set", "policy=no-such", "--json"],
            env=os.environ | {"SERVESCOPE_HOME": str(tmp_path)} | environment,
            cwd=SOURCE_ROOT,
            capture_output=True,
            text=True,
        )

    known = scenarios()
    assert known.returncode == 1
    assert "toy" in json.loads(known.stdout)["error"]["mend"]
    broken = scenarios(SERVESCOPE_PLUGINS="no_such_module")
    assert broken.returncode == 1
    assert "SERVESCOPE_PLUGINS = 'no_such_module'" in broken.stderr


def test_its_panel_is_drawn_for_the_run_that_had_it_on_alone(compared: tuple[Home, str], lab: Lab) -> None:
    home, experiment_id = compared
    by_variant = {n: about["runs"][0] for n, about in result_of_experiment(home, experiment_id)["variants"].items()}

    def drawn(run_id: str) -> list[str]:
        page = AppTest.from_file(str(PAGE), default_timeout=60)
        page.query_params["run"] = run_id
        page.run()
        assert not page.exception
        return [str(caption.value) for caption in page.caption if "The toy served" in str(caption.value)]

    wait_for(lambda: drawn(by_variant["ours"]))
    assert drawn(by_variant["usual"]) == []
