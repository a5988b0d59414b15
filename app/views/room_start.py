"""The sidebar of a viewer's Live page: where the presenter allows it, a scenario and its switches, and nothing else.

No setting takes a path or a name here, so a viewer's run reads no file that the presenter did not name.
"""

from __future__ import annotations

import streamlit as st

from app.components.fields import begin
from app.errors import LabError
from app.lab import Lab
from app.rights import Right, may
from app.runs.machine_rates import known_rates
from app.settings import controls as book
from app.settings.controls import Control
from app.settings.more_techniques import more_techniques
from app.settings.scenario_list import scenario_infos, scenario_title
from app.words.plain import plain
from engine.config import ConfigError
from scenarios import ScenarioError, build
from telemetry.refusal import in_words, with_field

MOST_WAITING = 12
AS_IT_IS = "as the scenario has it"


def viewers_panel(lab: Lab, run_id: str | None = None) -> None:
    """Draw it."""
    if not may(Right.START):
        st.caption("The presenter starts the runs here. What is running is on the right.")
        return
    st.markdown("**Ask for a run**")
    known = {info.name: info for info in scenario_infos()}
    name = st.selectbox(
        "Scenario", list(known), format_func=lambda key: scenario_title(known[key]), key="room-scenario"
    )
    st.caption(plain(known[name].summary))
    for technique in book.leading_techniques():
        _switch(technique)
    further = book.further_techniques()
    if more_techniques([one.path for one in further if _wanted(one) != AS_IT_IS], key="room-more", word="changed"):
        for technique in further:
            _switch(technique)
    changed = {one.path: _wanted(one) for one in book.techniques() if _wanted(one) != AS_IT_IS}
    waiting = len(lab.queue.queued())
    if waiting >= MOST_WAITING:
        st.caption(f"{waiting} runs wait; ask again when there are fewer.")
    elif st.button("Ask for this run", key="room-start", type="primary", icon=":material/queue:", width="stretch"):
        _start(lab, name, changed)


def _switch(technique: Control) -> None:
    key = _key(technique)
    begin(key, AS_IT_IS)
    st.selectbox(technique.title, [AS_IT_IS, "on", "off"], key=key, persist_state="session")


def _wanted(technique: Control) -> str:
    return str(st.session_state.get(_key(technique), AS_IT_IS))


def _key(technique: Control) -> str:
    return f"room-{technique.path}"


def _start(lab: Lab, scenario: str, changed: dict[str, str]) -> None:
    try:
        run_id = lab.submit(build(scenario, changed, measure=known_rates))
    except (ConfigError, ScenarioError) as error:
        st.error(plain(with_field(error)), icon=":material/error:")
    except LabError as error:
        st.error(plain(in_words(error)), icon=":material/error:")
    else:
        waiting = lab.queue.queued()
        place = f", place {waiting.index(run_id) + 1} in the queue" if run_id in waiting else ""
        st.success(f"Your run is queued{place}.", icon=":material/check:")
