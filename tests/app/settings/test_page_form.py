"""Every control of the form is turned, alone and beside each technique: nothing a reader can set ends the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.lab import Lab
from app.runs.folder import create_run, read_spec
from app.server.serve import PAGE
from app.settings import controls as book
from app.settings.controls import Control
from app.settings.widgets import LARGEST_EXACT, SUGGESTIONS
from app.words.plain import plain
from scenarios import build, load
from tests.app.lab_process import lab_here
from tests.open_form import open_sections

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


def form_page() -> AppTest:
    """The page with everything of its form open but the workload."""
    return open_sections(AppTest.from_file(LAB, default_timeout=60))


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
    page = form_page().run()
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


@pytest.mark.parametrize(("value", "said"), [(32, "caption"), (0, "error")])
def test_a_closed_expander_says_what_was_changed_or_is_wrong_in_it(lab: Lab, value: int, said: str) -> None:
    page = form_page().run()
    page.number_input(key="set:starter:block_size").set_value(value).run()
    page.session_state["more-settings"] = False
    page.run()
    assert "set:starter:block_size" not in {element.key for element in page.number_input}
    assert any(plain("block_size") in str(element.value) for element in getattr(page, said))


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
    page = form_page()
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
    page = form_page()
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
    page = form_page()
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
    page = form_page()
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
    said = " ".join(str(warning.value).replace("\\", "") for warning in page.warning)
    for wrong in ("policy is 'fastest'", "nonsense is '1'", "sampling.stop is '{'", "<b> is 'x'"):
        assert wrong in said
    assert "It must be one of stall-free" in said


def test_a_link_opens_its_settings_alone_whatever_run_is_shown(lab: Lab) -> None:
    spec = build("chat", {"seed": "7", "chunked_prefill": "off"}, run_id="other")
    create_run(lab.home, spec)
    lab.queue.cancel(spec.run_id)
    page = form_page()
    page.query_params["scenario"] = "chat"
    page.query_params["set"] = ["policy=orca", "workload.requests=3"]
    page.run()
    assert not page.exception
    assert page.number_input(key="set:chat:seed").value == 0
    assert page.toggle(key="set:chat:chunked_prefill").value is True
    assert page.selectbox(key="set:chat:policy").value == "orca"
    assert page.session_state["set:chat:workload.chat.requests"] == 3
    assert not page.warning


def test_an_unknown_scenario_in_a_link_is_said(lab: Lab) -> None:
    page = form_page()
    page.query_params["scenario"] = "<b>gone</b>"
    page.run()
    assert not page.exception
    assert any("There is no scenario" in str(warning.value) for warning in page.warning)


def test_the_panel_takes_the_workload_of_a_run_and_a_button_brings_it_back(lab: Lab) -> None:
    spec = build("chat", {"workload.requests": "3", "policy": "orca"}, run_id="asked")
    create_run(lab.home, spec)
    lab.queue.cancel(spec.run_id)
    page = form_page()
    page.query_params["run"] = "asked"
    page.session_state["workload-chat"] = True
    page.run()
    assert not page.exception
    count = "set:chat:workload.chat.requests"
    assert page.number_input(key=count).value == 3
    page.number_input(key=count).set_value(9)
    page.selectbox(key="scenario").set_value("starter").run()
    page.button(key="use-settings").click().run()
    assert not page.exception
    assert page.selectbox(key="scenario").value == "chat"
    assert page.number_input(key=count).value == 3
    assert page.selectbox(key="set:chat:policy").value == "orca"


def test_the_workload_is_set_estimated_and_served_so(lab: Lab) -> None:
    page = form_page()
    page.session_state["workload-chat"] = True
    page.query_params["scenario"] = "chat"
    page.run()
    before = [str(caption.value) for caption in page.caption]
    page.selectbox(key="set:chat:workload.chat.arrivals.kind").set_value("closed-loop").run()
    assert not page.exception
    page.number_input(key="set:chat:workload.chat.arrivals.clients").set_value(2)
    page.number_input(key="set:chat:workload.chat.requests").set_value(4)
    page.selectbox(key="set:chat:workload.chat.prompt.kind").set_value("texts").run()
    assert page.button(key="start").disabled, "prompts of one's own have to be typed first"
    page.text_area(key="set:chat:workload.chat.prompt.texts").set_value("Why?\nHow <b>so</b>?")
    page.selectbox(key="set:chat:model").set_value("random:tiny").run()
    assert not page.exception
    assert not page.button(key="start").disabled
    after = [str(caption.value) for caption in page.caption]
    assert any("KV pool" in text for text in after)
    assert before != after
    known = set(lab.home.run_ids())
    page.button(key="start").click().run()
    (run_id,) = set(lab.home.run_ids()) - known
    lab.queue.cancel(run_id)
    spec = read_spec(lab.home.run_dir(run_id))
    assert [request.prompt for request in spec.requests] == ["Why?", "How <b>so</b>?"] * 2
    assert sum(request.after is None for request in spec.requests) == 2
    assert spec.workload["workload.chat.arrivals.clients"] == "2"


def test_a_workload_that_cannot_be_is_said_though_its_panel_is_closed(lab: Lab) -> None:
    page = form_page()
    page.query_params["scenario"] = "chat"
    page.query_params["set"] = ["workload.chat.requests=0"]
    page.run()
    assert not page.exception
    assert any("requests" in str(error.value) and "at least 1" in str(error.value) for error in page.error)
    assert page.button(key="start").disabled


def test_a_preset_is_taken_and_saved_settings_come_back(lab: Lab) -> None:
    page = form_page()
    page.query_params["scenario"] = "chat"
    page.run()
    page.selectbox(key="set-taken-chat").set_value("preset:orca").run()
    page.button(key="take-set-chat").click().run()
    assert not page.exception
    assert page.selectbox(key="set:chat:policy").value == "orca"
    assert page.toggle(key="set:chat:chunked_prefill").value is False
    page.text_input(key="save-name-chat").set_value("My Orca").run()
    page.button(key="save-set-chat").click().run()
    assert any("my-orca" in str(error.value).replace("\\", "") for error in page.error)
    page.text_input(key="save-name-chat").set_value("my-orca").run()
    page.button(key="save-set-chat").click().run()
    assert not page.error
    page.button(key="reset-all").click().run()
    assert page.toggle(key="set:chat:chunked_prefill").value is True
    page.selectbox(key="set-taken-chat").set_value("saved:my-orca").run()
    page.button(key="take-set-chat").click().run()
    assert page.selectbox(key="set:chat:policy").value == "orca"
    (lab.home.settings / "my-orca.json").write_text('{"settings": {"policy": "fastest"}}')
    page.button(key="reset-all").click().run()
    page.button(key="take-set-chat").click().run()
    assert not page.exception
    assert any("my-orca.json: policy is 'fastest'" in str(w.value).replace("\\", "") for w in page.warning)
    assert page.selectbox(key="set:chat:policy").value is None, "nothing of it is taken"


def test_a_scenario_of_ones_own_is_saved_changed_and_removed(lab: Lab) -> None:
    page = form_page()
    page.query_params["scenario"] = "chat"
    page.query_params["set"] = ["workload.requests=3", "policy=orca"]
    page.run()
    page.text_input(key="own-name").set_value("chat").run()
    page.button(key="own-save").click().run()
    assert any("A built-in scenario has this name" in str(e.value).replace("\\", "") for e in page.error)
    page.text_input(key="own-name").set_value("my-chat")
    page.text_input(key="own-title-chat").set_value("<b>Mine</b>").run()
    page.button(key="own-save").click().run()
    assert not page.exception
    assert page.selectbox(key="scenario").value == "my-chat"
    assert page.selectbox(key="set:my-chat:policy").value == "orca"
    assert "reset-all" not in {button.key for button in page.button}, "what was set is now the scenario's own"
    assert len(build("my-chat").requests) == 3
    page.selectbox(key="set:my-chat:policy").set_value("static").run()
    page.button(key="own-replace").click().run()
    assert load("my-chat").engine.policy == "static"
    (text,) = (area for area in page.text_area if str(area.key).startswith("own-text-my-chat"))
    text.set_value(text.value.replace("requests: 3", "requests: nothing")).run()
    page.button(key="own-save-text-my-chat").click().run()
    assert any("requests" in str(error.value) for error in page.error)
    assert len(build("my-chat").requests) == 3
    page.checkbox(key="own-sure-my-chat").set_value(True).run()
    page.button(key="own-remove-my-chat").click().run()
    assert not page.exception
    assert "my-chat" not in page.selectbox(key="scenario").options
    assert not list(lab.home.scenarios.iterdir())


def test_a_scenario_file_spoilt_by_hand_is_named_and_mended_on_the_page(lab: Lab) -> None:
    lab.home.scenarios.mkdir(exist_ok=True)
    (lab.home.scenarios / "spoilt.yaml").write_text("titel: <b>x</b>\n")
    page = form_page().run()
    assert not page.exception
    assert any("spoilt.yaml: titel" in str(error.value).replace("\\", "") for error in page.error)
    page.checkbox(key="own-sure-spoilt").set_value(True).run()
    page.button(key="own-remove-spoilt").click().run()
    assert not page.exception
    assert not page.error
