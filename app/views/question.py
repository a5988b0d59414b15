"""What a scenario asks and what to watch for, said before the answer is seen."""

from __future__ import annotations

import streamlit as st

from app.runs.facts import RunFacts
from app.words.plain import plain
from scenarios import Scenario, ScenarioError, load


@st.cache_data(show_spinner=False)
def _scenario(name: str) -> Scenario | None:
    try:
        return load(name)
    except ScenarioError:
        return None


def scenario_question(facts: RunFacts) -> None:
    """The question in a line, the rest on request; nothing for a scenario that is no longer there."""
    if facts.spec.sizing:
        st.caption(plain(facts.spec.sizing))
    scenario = _scenario(facts.spec.scenario)
    if scenario is None:
        return
    with st.expander(plain(scenario.question), icon=":material/help:"):
        st.markdown("**Watch**")
        for line in scenario.watch:
            st.markdown("- " + plain(line))
        if scenario.expect:
            st.markdown("**What should come out**")
            for expectation in scenario.expectations:
                st.markdown("- " + plain(expectation.says))
