"""The sidebar's start panel: a scenario, the Start button, and every setting."""

from __future__ import annotations

import contextlib
import time

import streamlit as st

from app.components.address import keep_in_address
from app.components.fields import begin
from app.errors import LabError
from app.lab import Lab
from app.rights import Right, offered_with, visitor
from app.runs.facts import RunFacts, flipped, load_run
from app.runs.folder import read_spec
from app.runs.machine_rates import measure_for
from app.settings import controls as book
from app.settings.form import Form
from app.settings.held import LONGEST_KEPT, changes_of, complaints_of, edits, hold, reset, restore, take_settings
from app.settings.scenario_list import scenario_infos, scenario_of, scenario_title
from app.settings.workload_form import workload_form
from app.views.exchange_settings import say_problems, settings_row
from app.views.own_scenarios import own_scenario_row
from app.views.pair import BESIDE
from app.views.preview import estimate, what_will_be_asked
from app.words.plain import counted, plain
from app.words.text import PARTS, in_sentence
from engine.config import ConfigError, RunSpec
from scenarios import Scenario, ScenarioError, build, new_run_id
from telemetry.refusal import in_words, with_field

DEFAULT_TECHNIQUE = "chunked_prefill"


def start_panel(lab: Lab, run_id: str | None = None) -> None:
    """Draw the panel; a pressed Start queues the run and shows it. ``run_id``: the run beside it, whose settings it
    takes.
    """
    scenarios = {info.name: info for info in scenario_infos()}
    _follow(lab, run_id, list(scenarios))
    _switch_on(next(iter(scenarios)))
    if st.session_state.get("scenario") not in scenarios:
        st.session_state["scenario"] = next(iter(scenarios))
    begin("scenario")
    name = st.selectbox(
        "Scenario",
        list(scenarios),
        format_func=lambda key: scenario_title(scenarios[key]),
        key="scenario",
        persist_state="session",
        help="What is asked of the engine: when requests come, how long they are, what they say.",
    )
    st.caption(plain(scenarios[name].summary))
    form = Form(scenario_of(name), name, name)
    changed, wrong = form.before, form.wrong
    if st.button(
        "Start", type="primary", width="stretch", icon=":material/play_arrow:", disabled=bool(wrong), key="start"
    ):
        _start(lab, name, changed)
    if wrong:
        st.error(f"{counted(len(wrong), 'setting')} to mend before the start; marked below.", icon=":material/error:")
    else:
        estimate(name, changed)
    what_will_be_asked(name, changed, wrong=bool(wrong))
    workload_form(form, lab.home)
    own_scenario_row(scenarios[name], form.scenario, changed)
    settings_row(lab.home, form.scenario, name, name)
    form.engine()
    _keep(form.scenario, name, changed)


def _follow(lab: Lab, run_id: str | None, known: list[str]) -> None:
    """Turn the panel to a run's scenario and settings when the run is first shown; what was set for other scenarios
    stays. An address that names a scenario has its settings from there alone.
    """
    if st.session_state.get("followed") == (run_id or ""):
        return
    st.session_state["followed"] = run_id or ""
    st.session_state["followed-settings"] = ("", {})
    asked = st.query_params.get("scenario")
    if asked in known:
        st.session_state["scenario"] = asked
        reset(scenario_of(asked), asked)
    elif run_id:
        with contextlib.suppress(LabError):
            facts = load_run(lab.home, run_id)
            if facts.spec.scenario in known:
                follow_run(facts)
    name = st.session_state.get("scenario", known[0])
    problems = [] if asked is None or asked in known else [f"There is no scenario {asked!r} here."]
    if name in known:
        say_problems(name, problems + restore(scenario_of(name), name, st.query_params.get_all("set")))


def follow_run(facts: RunFacts) -> None:
    """Turn the panel to a run's scenario, which is one of the list, and to its settings."""
    spec = facts.spec
    scenario = scenario_of(spec.scenario)
    st.session_state["scenario"] = spec.scenario
    say_problems(spec.scenario, take_settings(scenario, spec.scenario, spec.engine, spec.workload))
    st.session_state["followed-settings"] = (spec.scenario, changes_of(scenario, spec.scenario))


def use_settings(facts: RunFacts) -> None:
    """What the button does: the panel as the run was served; where its scenario is not here, the chosen one so."""
    known = [info.name for info in scenario_infos()]
    if facts.spec.scenario in known:
        follow_run(facts)
        return
    name = st.session_state.get("scenario", known[0])
    take_settings(scenario_of(name), name, facts.spec.engine, {})
    say_problems(name, [f"Its scenario, {facts.spec.scenario}, is not here: its settings are set for {name}."])


def _switch_on(usual: str) -> None:
    """Switch on the techniques that the address asks for, once for each time the reader comes with them."""
    asked = st.query_params.get_all("technique")
    if asked != st.session_state.get("techniques-asked", []):
        st.session_state["techniques-asked"] = asked
        hold(st.session_state.get("scenario", usual), {c.path: True for c in book.techniques() if c.path in asked})


def _keep(scenario: Scenario, name: str, changed: dict[str, str]) -> None:
    """Have the address say how the panel differs from the shown run, for a reload."""
    followed, settings = st.session_state.get("followed-settings", ("", {}))
    edited = edits(scenario, settings if name == followed else {}, changed)
    pairs = [f"{path}={text}" for path, text in edited.items() if len(text) <= LONGEST_KEPT]
    keep_in_address(
        {"scenario": [name] if name != followed else [], "set": pairs, "technique": []},  # techniques are done
        tabs=PARTS,
    )


def nothing_yet(lab: Lab) -> None:
    """What an empty store shows: what to do, and a button that does it."""
    if visitor().is_viewer:
        st.title("Nothing has run yet", anchor=False)
        st.markdown("What the presenter runs appears here.")
        return
    name = st.session_state["scenario"]
    info = next(info for info in scenario_infos() if info.name == name)
    st.title("Nothing has run yet", anchor=False)
    st.markdown(
        "A scenario says what is asked of the engine; its charts appear here and move while the engine works. The "
        "panel on the left has all scenarios, techniques and settings."
    )
    with st.container(border=True):
        st.markdown(f"**{plain(info.title)}**")
        st.markdown(plain(info.summary))
        changed = changes_of(scenario_of(name), name)
        wrong = bool(complaints_of(scenario_of(name), changed))
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


@offered_with(Right.START)
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
    named = next((info.technique for info in scenario_infos() if info.name == facts.spec.scenario), None)
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
