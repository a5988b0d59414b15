"""Every control of the form is turned, alone and beside each technique: nothing a reader can set ends the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.experiments.file import read_experiment, read_specs
from app.lab import Lab
from app.runs.folder import create_run
from app.server.serve import PAGE
from app.settings import controls as book
from app.settings.controls import Control
from app.settings.form import LARGEST_EXACT, SUGGESTIONS
from engine.config import KVQuantization
from scenarios import build
from tests.app.lab_process import lab_here

LAB = str(PAGE)
TECHNIQUES = [technique.path for technique in book.techniques()]
PRESSES = {"switch": "toggle", "choice": "selectbox", "whole": "number_input", "number": "number_input"} | {
    "list": "multiselect",
    "text": "text_input",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with an empty store that serves nothing."""
    with lab_here(tmp_path_factory.mktemp("form"), serves_experiments=False) as opened:
        yield opened


def key(control: Control) -> str:
    return f"set:starter:{control.path}"


def limit(control: Control, words: str) -> float | None:
    match = re.search(rf"{words} (\S+)", control.bounds)
    return None if match is None else float(match[1])


def values(control: Control) -> list[Any]:
    """Everything worth setting a control to: each choice, numbers at their bounds and one step beyond, an empty field."""
    if control.kind == "switch":
        return [True, False]
    if control.kind == "choice":
        return [*([None] if control.optional else []), *control.choices]
    if control.path in SUGGESTIONS:
        return SUGGESTIONS[control.path]()
    if control.kind == "list":
        return [[]]
    if control.kind == "text":
        return ["", "*x* <b>"]
    step, make = (1, int) if control.kind == "whole" else (0.05, float)
    lows = [bound for words in ("at least", "above") if (bound := limit(control, words)) is not None]
    highs = [bound for words in ("at most", "below") if (bound := limit(control, words)) is not None]
    near_limits = [make(b) for low in lows for b in (low, low - step)] + [
        make(b) for high in highs for b in (high, high + step)
    ]
    return [*near_limits, LARGEST_EXACT - 1 if control.kind == "whole" else 0.5, None]


def element_of(page: AppTest, control: Control) -> Any:
    kind = "selectbox" if control.path in SUGGESTIONS else PRESSES[control.kind]
    return getattr(page, kind)(key=key(control))


def visible(on: Sequence[str]) -> list[Control]:
    off = tuple(f"{path}." for path in TECHNIQUES if path not in on)
    return [c for c in book.controls() if c.kind != "technique" and not c.path.startswith(off)]


@pytest.mark.parametrize(
    "on", [[], *([path] for path in TECHNIQUES), TECHNIQUES], ids=lambda on: "+".join(on) or "none"
)
def test_every_control_takes_every_value_beside_each_technique(lab: Lab, on: list[str]) -> None:
    page = AppTest.from_file(LAB, default_timeout=60).run()
    for path in TECHNIQUES:
        page.toggle(key=f"set:starter:{path}").set_value(path in on)
    page.run()
    assert not page.exception
    turned = visible(on)
    rounds = max(len(values(control)) for control in turned)
    for n in range(rounds):
        asked = {control: values(control)[n] for control in turned if n < len(values(control))}
        for control, value in asked.items():
            element_of(page, control).set_value(value)
        page.run()
        assert not page.exception, [error.message for error in page.exception]
        for control, value in asked.items():
            assert element_of(page, control).value == value, control.path
    page.button(key="reset-all").click().run()
    assert not page.exception


@pytest.mark.parametrize(
    ("path", "value", "then"),
    [
        ("seed", 2**63 - 1, "12"),
        ("seed", 2**63 - 1, "-1"),
        ("seed", 2**63 - 1, "many"),
        ("max_num_batched_tokens", 10**24, "2048"),
    ],
)
def test_a_number_that_a_browser_would_round_is_a_text_until_it_is_smaller(
    lab: Lab, path: str, value: int, then: str
) -> None:
    page = AppTest.from_file(LAB, default_timeout=60)
    page.session_state[f"set:starter:{path}"] = value
    page.run()
    assert not page.exception
    field = page.text_input(key=f"set:starter:{path}")
    assert field.value == str(value)
    field.set_value(then).run()
    assert not page.exception
    shown = {element.key: element.value for kind in (page.text_input, page.number_input) for element in kind}
    assert str(shown[f"set:starter:{path}"]) == then
    assert page.button(key="start").disabled is (then in ("-1", "many"))


def test_texts_of_the_readers_own_are_kept_and_judged(lab: Lab) -> None:
    page = AppTest.from_file(LAB, default_timeout=60)
    own = {"model": "./<b>mine</b>", "device": "toaster", "sampling.stop": ["one", "two, and three"]}
    for path, value in own.items():
        page.session_state[f"set:starter:{path}"] = value
    page.run()
    assert not page.exception
    assert page.selectbox(key="set:starter:model").value == own["model"]
    assert page.multiselect(key="set:starter:sampling.stop").value == own["sampling.stop"]
    assert [str(error.value)[:7] for error in page.error][1:] == ["toaster"]


def test_the_panel_takes_the_settings_of_the_run_that_is_shown(lab: Lab) -> None:
    first = build("starter", {"seed": "7", "chunked_prefill": "off", "kv_quantization.codec": "int4"}, run_id="first")
    second = build("starter", {"chunked_prefill.token_budget": "48"}, run_id="second")
    for spec in (first, second):
        create_run(lab.home, spec)
        lab.queue.cancel(spec.run_id)
    page = AppTest.from_file(LAB, default_timeout=60)
    page.query_params["run"] = "first"
    page.run()
    assert not page.exception
    assert page.number_input(key="set:starter:seed").value == 7
    assert page.toggle(key="set:starter:chunked_prefill").value is False
    assert page.selectbox(key="set:starter:kv_quantization.codec").value == "int4"
    page.number_input(key="set:starter:seed").set_value(9).run()
    assert page.number_input(key="set:starter:seed").value == 9, "what the reader sets stays while the run is shown"
    page.query_params["run"] = "second"
    page.run()
    assert page.number_input(key="set:starter:seed").value == 0
    assert page.number_input(key="set:starter:chunked_prefill.token_budget").value == 48
    assert page.toggle(key="set:starter:kv_quantization").value is False


def test_an_address_brings_the_readers_edits_back(lab: Lab) -> None:
    page = AppTest.from_file(LAB, default_timeout=60)
    asked = ["seed=11", "kv_quantization=on", "kv_quantization.key_bits=4", "kv_blocks=none", "max_num_seqs=0"]
    page.query_params["scenario"] = "chat"
    page.query_params["set"] = [*asked, "policy=fastest", "nonsense=1", "sampling.stop={", "=", "<b>=x"]
    page.run()
    assert not page.exception
    assert page.selectbox(key="scenario").value == "chat"
    assert page.number_input(key="set:chat:seed").value == 11
    assert page.selectbox(key="set:chat:kv_quantization.key_bits").value == 4
    assert page.selectbox(key="set:chat:policy").value is None
    assert page.number_input(key="set:chat:max_num_seqs").value == 0
    assert page.button(key="start").disabled


def test_compare_with_and_without_keeps_what_was_set_and_names_the_variants_by_what_differs(lab: Lab) -> None:
    page = compare_page(technique="kv_quantization", set=["kv_quantization.codec=int4", "seed=3"])
    page.button(key="compare-start").click().run()
    assert not page.exception, [error.message for error in page.exception]
    (started,) = lab.home.experiment_ids()
    experiment = read_experiment(lab.home, started)
    assert [variant.name for variant in experiment.variants] == ["KV quantization on", "KV quantization off"]
    specs = read_specs(lab.home, experiment)
    with_it, without = (specs[variant.name].engine for variant in experiment.variants)
    assert with_it.kv_quantization == KVQuantization(codec="int4")
    assert without.kv_quantization is None
    assert (with_it.seed, without.seed) == (3, 3)
    fresh = next(box for box in page.selectbox if box.label == "Experiment")
    assert any(option.startswith(experiment.title) for option in fresh.options), "no bare id"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chunked_prefill.token_budget=32", "contradicts chunked_prefill=off"),
        ("chunked_prefill=on", "the switch above says off"),
        ("seed=1\nseed=2", "given twice"),
    ],
)
def test_a_variant_whose_switches_and_text_contradict_is_refused(lab: Lab, text: str, said: str) -> None:
    page = compare_page()
    before = set(lab.home.experiment_ids())
    page.text_area(key="side-1-more").set_value(text).run()
    page.button(key="compare-start").click().run()
    assert not page.exception
    assert any(said in str(error.value).replace("\\", "") for error in page.error)
    assert set(lab.home.experiment_ids()) == before


def test_a_reload_of_compare_keeps_what_was_typed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        "app.views.kept_fields.keep_in_address",
        lambda parameters, **_: told.__setitem__(slice(None), parameters["form"]),
    )
    page = compare_page()
    assert told == []
    page.number_input(key="compare-repeats").set_value(3)
    page.text_input(key="compare-slo").set_value("")
    page.number_input(key="compare-count").set_value(3)
    page.text_area(key="side-0-more").set_value("policy=orca\nkv_blocks=64")
    page.text_input(key="side-1").set_value("<b>a=b</b>")
    page.text_input(key="over-1").set_value("max_num_seqs")
    page.number_input(key="rate-high").set_value(2.5)
    toggle = next(box for box in page.toggle if box.key.startswith("side-1-speculation"))
    toggle.set_value(not toggle.value)
    page.run()
    assert not page.exception
    again = compare_page(form=list(told))
    for key in ("compare-repeats", "compare-count", "rate-high"):
        assert again.number_input(key=key).value == page.number_input(key=key).value
    for key in ("compare-slo", "side-1", "over-1", "values-0"):
        assert again.text_input(key=key).value == page.text_input(key=key).value
    assert again.text_area(key="side-0-more").value == "policy=orca\nkv_blocks=64"
    assert [box.value for box in again.toggle] == [box.value for box in page.toggle]


def test_a_field_that_an_address_fills_with_nonsense_holds_its_usual_value(lab: Lab) -> None:
    page = compare_page(
        form=["repeats=0", "sides=seven", "low=nan", "high=inf", "0.speculation=maybe", "=", "x", "scenario=y"]
    )
    assert not page.exception
    assert page.number_input(key="compare-repeats").value == 5
    assert page.number_input(key="compare-count").value == 2
    assert page.number_input(key="rate-low").value is None
    assert page.number_input(key="rate-high").value is None
    assert page.selectbox(key="compare-scenario").value == "starter"


def test_another_link_to_compare_ends_what_the_reader_came_with(lab: Lab) -> None:
    page = compare_page(form=["scenario=chat", "repeats=2"])
    assert page.selectbox(key="compare-scenario").value == "chat"
    page.switch_page("pages/runs.py").run()
    page.query_params.clear()
    page.query_params["scenario"] = "copy-heavy"
    page.switch_page("pages/compare.py").run()
    assert page.selectbox(key="compare-scenario").value == "copy-heavy"
    assert page.number_input(key="compare-repeats").value == 5


def compare_page(**parameters: Any) -> AppTest:
    page = AppTest.from_file(LAB, default_timeout=60)
    for name, value in ({"scenario": "starter"} | parameters).items():
        page.query_params[name] = value
    page.switch_page("pages/compare.py").run()
    return page
