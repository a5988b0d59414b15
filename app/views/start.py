"""The sidebar's start panel: a scenario, the Start button, and every setting."""

from __future__ import annotations

import contextlib
import time

import streamlit as st

from app.components.address import keep_in_address
from app.errors import LabError
from app.lab import Lab
from app.runs.facts import RunFacts, flipped, load_run
from app.runs.folder import read_spec
from app.runs.machine_rates import measure_for
from app.settings import controls as book
from app.settings.form import changes_of, restore, settings_form, take_settings
from app.views.pair import BESIDE
from app.views.preview import what_will_be_asked
from app.words.plain import counted, plain
from app.words.text import PARTS, in_sentence
from engine.config import ConfigError, EngineConfig, RunSpec
from scenarios import ScenarioError, ScenarioInfo, available, build, load, new_run_id
from telemetry.refusal import in_words, with_field

DEFAULT_TECHNIQUE = "chunked_prefill"


@st.cache_data(show_spinner=False)
def _scenarios() -> list[ScenarioInfo]:
    return available()


@st.cache_data(show_spinner=False)
def _scenario_settings(name: str) -> EngineConfig:
    return load(name).engine


def start_panel(lab: Lab, run_id: str | None = None) -> None:
    """Draw the panel; a pressed Start queues the run and shows it. ``run_id``: the run beside it, whose settings it
    takes.
    """
    scenarios = {info.name: info for info in _scenarios()}
    _follow(lab, run_id, list(scenarios))
    _switch_on(next(iter(scenarios)))
    name = st.selectbox(
        "Scenario",
        list(scenarios),
        format_func=lambda key: scenarios[key].title,
        key="scenario",
        persist_state="session",
        help="What is asked of the engine: when requests come, how long they are, what they say.",
    )
    st.caption(plain(scenarios[name].summary))
    base = _scenario_settings(name)
    changed = changes_of(base, name)
    wrong = book.complaints(base, changed)
    if st.button(
        "Start", type="primary", width="stretch", icon=":material/play_arrow:", disabled=bool(wrong), key="start"
    ):
        _start(lab, name, changed)
    if wrong:
        st.error(f"{counted(len(wrong), 'setting')} to mend before the start; marked below.", icon=":material/error:")
    what_will_be_asked(name, changed, wrong=bool(wrong))
    settings_form(base, name)
    _keep(base, name, changed)


def _follow(lab: Lab, run_id: str | None, known: list[str]) -> None:
    """Turn the panel to a run's scenario and settings when the run is first shown; what was set for other scenarios
    stays.
    """
    if st.session_state.get("followed") == (run_id or ""):
        return
    st.session_state["followed"] = run_id or ""
    st.session_state["followed-settings"] = ("", {})
    with contextlib.suppress(LabError):
        spec = load_run(lab.home, run_id).spec if run_id else None
        if spec is not None and spec.scenario in known:
            st.session_state["scenario"] = spec.scenario
            take_settings(spec.scenario, spec.engine)
            settings = book.settings_of(_scenario_settings(spec.scenario), spec.engine)
            st.session_state["followed-settings"] = (spec.scenario, settings)
    if (asked := st.query_params.get("scenario")) in known:
        st.session_state["scenario"] = asked
    restore(st.session_state.get("scenario", known[0]), st.query_params.get_all("set"))


def _switch_on(usual: str) -> None:
    """Switch on the techniques that the address asks for, once for each time the reader comes with them."""
    asked = st.query_params.get_all("technique")
    if asked != st.session_state.get("techniques-asked", []):
        st.session_state["techniques-asked"] = asked
        restore(st.session_state.get("scenario", usual), [f"{c.path}=on" for c in book.techniques() if c.path in asked])


def _keep(base: EngineConfig, scenario: str, changed: dict[str, str]) -> None:
    """Have the address say how the panel differs from the shown run, for a reload."""
    followed, settings = st.session_state.get("followed-settings", ("", {}))
    edited = book.edits(base, settings if scenario == followed else {}, changed)
    keep_in_address(
        {
            "scenario": [scenario] if scenario != followed else [],
            "set": [f"{path}={text}" for path, text in edited.items()],
            "technique": [],  # done
        },
        tabs=PARTS,
    )


def nothing_yet(lab: Lab) -> None:
    """What an empty store shows: what to do, and a button that does it."""
    name = st.session_state["scenario"]
    info = next(info for info in _scenarios() if info.name == name)
    st.title("Nothing has run yet", anchor=False)
    st.markdown(
        "A scenario says what is asked of the engine; its charts appear here and move while the engine works. The "
        "panel on the left has all scenarios, techniques and settings."
    )
    with st.container(border=True):
        st.markdown(f"**{plain(info.title)}**")
        st.markdown(plain(info.summary))
        changed = changes_of(_scenario_settings(name), name)
        wrong = bool(book.complaints(_scenario_settings(name), changed))
        if st.button(
            "Start this scenario", type="primary", icon=":material/play_arrow:", key="start-first", disabled=wrong
        ):
            _start(lab, name, changed)


def _start(lab: Lab, scenario: str, changed: dict[str, str]) -> None:
    try:
        with st.spinner("Drawing the requests; a model's first time here is measured before"):
            spec = build(scenario, changed, measure=measure_for(lab.home))
        show_started(lab, spec)
    except (ConfigError, ScenarioError) as error:
        st.error(plain(with_field(error)), icon=":material/error:")
    except LabError as error:
        st.error(plain(in_words(error)), icon=":material/error:")


def show_started(lab: Lab, spec: RunSpec) -> None:
    """Queue a run and turn the page to it. Raises ``LabError`` when the lab will not take it."""
    run_id = lab.submit(spec)
    st.query_params.from_dict({"run": run_id})  # in one step: each change of the address is a place that Back goes to
    st.rerun()


def flip_button(lab: Lab, facts: RunFacts) -> None:
    """Run the same requests again with the scenario's technique switched."""
    technique = _technique_of(facts)
    if technique is None:
        return
    title = next(control.title for control in book.techniques() if control.path == technique)
    turn = "off" if getattr(facts.spec.engine, technique) is not None else "on"
    st.button(
        f"Run again with {in_sentence(title)} {turn}",
        key="flip",
        type="primary",
        icon=":material/swap_horiz:",
        help="The same requests at the same moments, with this one switch turned. The present run stays behind the "
        "new one for comparison.",
        on_click=_flip,
        args=(lab, facts, technique),
    )
    if st.session_state.get("flip-error"):
        st.error(plain(st.session_state.pop("flip-error")), icon=":material/error:")


def _technique_of(facts: RunFacts) -> str | None:
    """The switch a run is about: its scenario's, else chunked prefill; None if this version has neither."""
    known = {control.path for control in book.techniques()}
    named = next((info.technique for info in _scenarios() if info.name == facts.spec.scenario), None)
    return next((path for path in (named, DEFAULT_TECHNIQUE) if path in known), None)


def _flip(lab: Lab, facts: RunFacts, technique: str) -> None:
    try:
        spec = read_spec(lab.home.existing_run_dir(facts.run_id))
        turned = flipped(spec, technique, new_run_id(), time.time_ns())
        lab.submit_like(turned)
    except LabError as error:
        st.session_state["flip-error"] = in_words(error)
        return
    st.query_params.from_dict({"run": turned.run_id, BESIDE: facts.run_id})
