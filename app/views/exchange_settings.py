"""Settings on the move: taken from a preset or a saved set, saved under a name, carried by a link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import streamlit as st

from app.home import Home
from app.runs.facts import RunFacts
from app.settings import controls as book
from app.settings.held import LONGEST_KEPT, apart, changes_of, hold
from app.settings.presets import PRESETS, preset_values
from app.settings.saved import delete_saved, fitting, read_saved, save_settings, saved_names
from app.settings.scenario_list import scenario_of
from app.words.plain import counted, plain
from engine.config import ConfigError, EngineConfig
from scenarios import Scenario, ScenarioError
from telemetry.refusal import Refusal, in_words, with_field

LONGEST_LINK = 6000  # characters; what servers and chat programs take whole
PRESET, SAVED = "preset:", "saved:"


def settings_row(home: Home, scenario: Scenario, scope: str, name: str) -> None:
    """Buttons for presets, saving and a link. ``name``: of the scenario."""
    changed = changes_of(scenario, scope)
    with st.container(horizontal=True, key=f"settings-row-{scope}", gap="small"):
        with st.popover("Presets", help="Settings of known systems, and those you saved"):
            _take(home, scenario, scope)
        with st.popover("Save", help="Keep these settings under a name"):
            _save(home, scope, apart(changed)[0])
        with st.popover("Link", help="A link that opens these settings for somebody else"):
            _link(name, changed)
    for problem in st.session_state.pop(f"settings-problems-{scope}", []):
        st.warning(plain(problem), icon=":material/link_off:")


def say_problems(scope: str, problems: list[str]) -> None:
    """Have what is wrong with settings that came from elsewhere said where they are drawn."""
    if problems:
        st.session_state[f"settings-problems-{scope}"] = problems


def named_sets(home: Home) -> dict[str, str]:
    """What can be taken: presets and saved settings, each with its title."""
    presets = {f"{PRESET}{name}": preset.title for name, preset in PRESETS.items()}
    return presets | {f"{SAVED}{name}": f"{name} (saved)" for name in saved_names(home)}


def values_of_set(home: Home, base: EngineConfig, chosen: str) -> dict[str, Any]:
    """What controls hold with a preset or saved settings. Raises ``LabError``, ``ConfigError``."""
    if chosen.startswith(PRESET):
        return preset_values(base, PRESETS[chosen.removeprefix(PRESET)])
    name = chosen.removeprefix(SAVED)
    settings = read_saved(home, name)
    served = fitting(base, name, settings)
    named = {*settings, *(path.partition(".")[0] for path in settings)}
    off = {t.path for t in book.techniques() if getattr(served, t.path) is None}
    return {
        control.path: book.value_of(served, control.path)
        for control in book.controls()
        if control.path in named and control.path.rpartition(".")[0] not in off
    }


def link_to(address: str, name: str, changed: Mapping[str, str]) -> str:
    """The address of the Live page with a scenario's settings; of ``address`` only where the lab is."""
    parts = urlsplit(address)
    pairs = [("scenario", name), *(("set", f"{path}={text}") for path, text in changed.items())]
    return f"{parts.scheme}://{parts.netloc}/?{urlencode(pairs)}"


def run_settings(facts: RunFacts) -> tuple[str, dict[str, str]] | None:
    """A run's scenario, and how it was served apart from that; None where the scenario is not here any more."""
    try:
        base = scenario_of(facts.spec.scenario).engine
    except ScenarioError:
        return None
    return facts.spec.scenario, book.settings_of(base, facts.spec.engine) | dict(facts.spec.workload)


def run_settings_links(facts: RunFacts) -> None:
    """Links that begin a run, or a comparison, with the settings of a run."""
    told = run_settings(facts)
    if told is None:
        st.caption(plain(f"Its scenario, {facts.spec.scenario}, is not here, so no link can carry its settings."))
        return
    name, settings = told
    fitting_in = {path: text for path, text in settings.items() if len(text) <= LONGEST_KEPT}
    carried: dict[str, Any] = {"scenario": name, "set": [f"{path}={text}" for path, text in fitting_in.items()]}
    if len(fitting_in) < len(settings):
        st.caption("Its own prompts are too long for a link; Set the panel so takes them, too.")
    for page, label, icon in (
        ("pages/live.py", "Run with its settings", ":material/play_circle:"),
        ("pages/compare.py", "Compare with its settings", ":material/balance:"),
    ):
        st.page_link(page, label=label, icon=icon, query_params=carried, width="content")


def _take(home: Home, scenario: Scenario, scope: str) -> None:
    titles = named_sets(home)
    key = f"set-taken-{scope}"
    chosen = st.selectbox("Settings", list(titles), format_func=lambda one: titles.get(one, one), key=key)
    if chosen is None:
        return
    if chosen.startswith(PRESET):
        st.caption(plain(PRESETS[chosen.removeprefix(PRESET)].about))
    st.button(
        "Take them",
        key=f"take-set-{scope}",
        type="primary",
        on_click=_taken,
        args=(home, scenario, scope, chosen),
        help="Sets policy and techniques; model, memory and requests stay."
        if chosen.startswith(PRESET)
        else "Sets what was saved; everything else stays.",
    )
    if chosen.startswith(SAVED):
        saved = chosen.removeprefix(SAVED)
        st.button("Delete them", key=f"delete-set-{scope}", on_click=_deleted, args=(home, scope, saved))


def _taken(home: Home, scenario: Scenario, scope: str, chosen: str) -> None:
    try:
        hold(scope, values_of_set(home, scenario.engine, chosen))
    except ConfigError as error:
        say_problems(scope, [with_field(error)])
    except Refusal as error:
        say_problems(scope, [in_words(error)])


def _deleted(home: Home, scope: str, name: str) -> None:
    try:
        delete_saved(home, name)
    except Refusal as error:
        say_problems(scope, [in_words(error)])


def _save(home: Home, scope: str, changed: Mapping[str, str]) -> None:
    if not changed:
        st.caption("Every engine setting is the scenario's own. What is changed is saved.")
        return
    st.caption(plain("; ".join(f"{path}={text}" for path, text in changed.items())))
    name = st.text_input("Name", key=f"save-name-{scope}", placeholder="my-settings", max_chars=80)
    replace = name in saved_names(home) and st.checkbox("Replace those saved before", key=f"save-replace-{scope}")
    if st.button("Save these settings", key=f"save-set-{scope}", type="primary"):
        try:
            save_settings(home, name, changed, replace=bool(replace))
        except Refusal as error:
            st.error(plain(in_words(error)), icon=":material/error:")
        else:
            st.success(plain(f"{counted(len(changed), 'setting')} saved as {name}; they are under Presets."))


def _link(name: str, changed: Mapping[str, str]) -> None:
    address = link_to(st.context.url or "", name, changed)
    if len(address) > LONGEST_LINK:
        st.caption("These settings are too long for a link (own prompts, most likely). Save them as a scenario.")
        return
    st.caption("Opens this scenario with these settings, in the lab at this address.")
    st.code(address, language=None, wrap_lines=True)
