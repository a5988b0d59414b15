"""Scenarios of the reader's own on the page: saved from what is set, copied, changed as text, removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from app.rights import Right, require
from app.settings.held import reset
from app.settings.scenario_list import damaged_scenarios
from app.words.plain import plain
from scenarios import Scenario, ScenarioInfo
from scenarios.build import apply_settings
from scenarios.own import remove_scenario, save_scenario, save_text, text_of
from telemetry.refusal import Refusal, with_field

PROBLEM, DONE = "own-problem", "own-done"


def own_scenario_row(info: ScenarioInfo, scenario: Scenario, changed: Mapping[str, str]) -> None:
    """Buttons that save the scenario with what is set as one of the reader's own, and change one that is."""
    with st.container(horizontal=True, gap="small", key="own-row"):
        words = "Keep scenario, workload and settings as they are here, under a name of your own"
        with st.popover("Save as scenario", icon=":material/save:", help=words):
            _save_as(info, scenario, changed)
        if info.own:
            with st.popover("Edit", icon=":material/edit_note:", help="Change or remove this scenario of yours"):
                _edit(info, scenario, changed)
    if PROBLEM in st.session_state:
        st.error(plain(st.session_state.pop(PROBLEM)), icon=":material/error:")
    if DONE in st.session_state:
        st.success(plain(st.session_state.pop(DONE)), icon=":material/check:")
    for error in damaged_scenarios():
        _damaged(error.field.partition(".yaml")[0], with_field(error))


def _save_as(info: ScenarioInfo, scenario: Scenario, changed: Mapping[str, str]) -> None:
    keys = ("own-name", f"own-title-{info.name}", f"own-question-{info.name}")
    about = "Lower case letters, digits and dashes."
    st.text_input("Name", key=keys[0], placeholder="my-chat", max_chars=80, help=about)
    st.text_input("Title", value=scenario.title, key=keys[1], max_chars=200)
    st.text_area("Question", value=scenario.question, key=keys[2], height=80)
    st.button(
        "Save as a scenario of mine",
        key="own-save",
        type="primary",
        on_click=_attempt,
        args=(lambda: _saved_as(info, scenario, changed, *_typed(keys)),),
    )


def _edit(info: ScenarioInfo, scenario: Scenario, changed: Mapping[str, str]) -> None:
    st.button(
        "Make what is set here its own",
        key="own-replace",
        disabled=not changed,
        on_click=_attempt,
        args=(lambda: _saved(info, scenario, changed, info.name, True),),
        help="Workload and settings that were changed become this scenario's.",
    )
    _text_editor(info.name)
    _remover(info.name)


def _damaged(name: str, words: str) -> None:
    """One that cannot be read: what is wrong, its text, and a way to remove it."""
    st.error(plain(words), icon=":material/error:")
    with st.popover(plain(f"Mend {name}"), icon=":material/edit_note:", key=f"mend-{name}"):
        _text_editor(name)
        _remover(name)


def _text_editor(name: str) -> None:
    try:
        before = text_of(name)
    except Refusal as error:
        st.error(plain(with_field(error)), icon=":material/error:")
        return
    key = f"own-text-{name}-{hash(before)}"
    st.text_area("Its file", value=before, height=360, key=key)
    st.button(
        "Save the file",
        key=f"own-save-text-{name}",
        on_click=_attempt,
        args=(lambda: _text_saved(name, *_typed([key])),),
        help="docs/scenarios.md says what a scenario file takes.",
    )


def _remover(name: str) -> None:
    sure = st.checkbox("I want to remove it", key=f"own-sure-{name}", help="Runs of it stay as they are.")
    st.button(
        "Remove this scenario",
        key=f"own-remove-{name}",
        disabled=not sure,
        on_click=_attempt,
        args=(lambda: _removed(name),),
    )


def _typed(keys: Sequence[str]) -> list[Any]:
    """What fields hold at the moment a button is pressed, which may have come with that press."""
    return [str(st.session_state.get(key) or "") for key in keys]


def _saved_as(
    info: ScenarioInfo, scenario: Scenario, changed: Mapping[str, str], name: str, title: str, question: str
) -> None:
    named = {key: text.strip() for key, text in (("title", title), ("question", question)) if text.strip()}
    _saved(info, scenario.model_copy(update=named), changed, name, False)


def _saved(info: ScenarioInfo, scenario: Scenario, changed: Mapping[str, str], name: str, replace: bool) -> None:
    made = apply_settings(scenario, changed)
    save_scenario(name.strip(), made, replace=replace, base=info.path.parent)
    reset(made, name.strip())
    st.session_state["scenario"] = name.strip()
    st.session_state[DONE] = f"Saved as {name.strip()}. On the command line: servescope run {name.strip()}"


def _text_saved(name: str, text: str) -> None:
    save_text(name, text)
    for key in [key for key in map(str, list(st.session_state)) if key.startswith(f"set:{name}:")]:
        del st.session_state[key]
    st.session_state[DONE] = f"{name} is changed."


def _removed(name: str) -> None:
    remove_scenario(name)
    if st.session_state.get("scenario") == name:
        del st.session_state["scenario"]
    st.session_state[DONE] = f"{name} is removed."


def _attempt(change: Callable[[], None]) -> None:
    try:
        require(Right.KEEP)
        change()
    except Refusal as error:
        st.session_state[PROBLEM] = with_field(error)
