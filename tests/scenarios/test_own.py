"""Scenarios of a person's own: found by name beside the built-in ones, written whole, and never another's file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scenarios
from engine.config import EngineConfig
from scenarios.build import apply_settings
from scenarios.load import look_also_in, own_scenarios, read_scenario
from scenarios.own import remove_scenario, save_scenario, save_text, scenario_text, text_of

NAMES = [info.name for info in scenarios.available()]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    look_also_in(tmp_path / "scenarios")
    yield tmp_path / "scenarios"
    look_also_in(None)


@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_is_copied_without_a_loss(name: str, folder: Path):
    scenario = scenarios.load(name)
    path = save_scenario(f"my-{name}", scenario)
    assert path.parent == folder
    assert scenarios.load(f"my-{name}") == scenario
    assert [info.name for info in own_scenarios()[0]] == [f"my-{name}"]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_is_written_so_that_it_reads_back(text: str):
    chat = scenarios.load("chat")
    scenario = chat.model_copy(update={"title": text, "watch": (text, "1e3", "on", "null", "010", "a: b")})
    assert read_scenario(scenario_text(scenario), "any.yaml") == scenario


def test_a_technique_that_is_off_stays_off(folder: Path):
    chat = scenarios.load("chat")
    engine = EngineConfig.model_validate({"chunked_prefill": None, "speculation": {}, "sampling": {"temperature": 0.5}})
    save_scenario("off", chat.model_copy(update={"engine": engine}))
    assert scenarios.load("off").engine == engine


def test_settings_and_workload_become_the_scenarios_own(folder: Path):
    asked = {"max_num_seqs": "3", "workload.requests": "5", "workload.arrivals": '{"kind": "interval", "every_s": 2}'}
    made = apply_settings(scenarios.load("chat"), asked)
    save_scenario("mine", made)
    spec = scenarios.build("mine")
    assert (len(spec.requests), spec.engine.max_num_seqs) == (5, 3)
    assert spec.requests[1].arrival_ns == 2_000_000_000
    assert spec.requests == scenarios.build("chat", asked).requests


def test_a_run_keeps_the_workload_settings_it_was_given():
    asked = {"seed": "1", "workload.chat.requests": "2"}
    assert scenarios.build("chat", asked).workload == {"workload.chat.requests": "2"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chat", "A built-in scenario has this name"),
        ("taken", "A scenario of yours has this name"),
        ("../../etc/passwd", "For example: etc-passwd"),
        ("<b>x</b>", "For example: b-x-b"),
        ("Mine!", "For example: mine"),
        ("", "For example: my-chat"),
        ("x" * 200, "at most 63"),
        (".hidden", "For example: hidden"),
        ("a\nb", "For example: a-b"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(name: str, said: str, folder: Path):
    save_scenario("taken", scenarios.load("chat"))
    with pytest.raises(scenarios.ScenarioError) as refused:
        save_scenario(name, scenarios.load("chat"))
    assert said in str(refused.value)
    assert refused.value.field == "name"
    assert [path.name for path in folder.iterdir()] == ["taken.yaml"]


def test_ones_own_is_replaced_only_if_that_is_meant(folder: Path):
    save_scenario("mine", scenarios.load("chat"))
    save_scenario("mine", scenarios.load("starter"), replace=True)
    assert scenarios.load("mine") == scenarios.load("starter")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: x\nworkload: [", "mine.yaml:2:"),
        ("title: x", "mine.yaml: summary"),
        ("", "not a map of keys"),
        ("title: x\nsummary: y\nquestion: z\nworkload: {groups: {a: {requests: 0, output_tokens: 4}}}", "requests"),
    ],
)
def test_a_text_that_is_no_scenario_leaves_the_file_as_it_was(text: str, said: str, folder: Path):
    save_scenario("mine", scenarios.load("chat"))
    before = text_of("mine")
    with pytest.raises(scenarios.ScenarioError) as refused:
        save_text("mine", text)
    assert said in str(refused.value)
    assert text_of("mine") == before
    assert len(list(folder.iterdir())) == 1


def test_a_file_spoilt_by_hand_is_named_and_stops_no_other(folder: Path):
    save_scenario("fine", scenarios.load("chat"))
    (folder / "spoilt.yaml").write_text("title: x\nquestions: y\n")
    infos, wrong = own_scenarios()
    assert [info.name for info in infos] == ["fine"]
    assert [error.field for error in wrong] == ["spoilt.yaml: questions"]
    assert text_of("spoilt").startswith("title: x")
    remove_scenario("spoilt")
    assert own_scenarios()[1] == []


def test_a_relative_trace_is_found_from_the_copy_too(folder: Path, tmp_path: Path):
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,10,4\n")
    asked = {
        "workload.chat.requests": "1",
        "workload.chat.arrivals": '{"kind": "trace", "path": "trace.csv"}',
        "workload.chat.output_tokens": '{"kind": "trace"}',
    }
    made = apply_settings(scenarios.load("chat"), asked)
    save_scenario("replay", made, base=tmp_path)
    assert len(scenarios.build("replay").requests) == 1


def test_a_built_in_scenario_is_nobodys_to_change(folder: Path):
    for change in (lambda: remove_scenario("chat"), lambda: save_text("chat", "title: x")):
        with pytest.raises(scenarios.ScenarioError):
            change()
    assert scenarios.load("chat").title
