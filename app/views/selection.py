"""What the address selects of a run and the run does not have, said above its tabs."""

from __future__ import annotations

import streamlit as st

from app.components.selection import selected
from app.panels.panel import FinishedRun
from app.runs.facts import RunFacts
from app.words.plain import plain
from app.words.selection import not_there, still_served
from store.extent import extent


def say_what_is_not_there(run: FinishedRun) -> None:
    """Draw a line for each part of the selection that the run does not have."""
    asked = selected()
    if asked:
        known = extent(run.con, run.facts.run_id)
        for sentence in not_there(asked, known, run.facts.spec.engine.recording, run.facts.state):
            st.warning(plain(sentence), icon=":material/search_off:")


def say_not_over(facts: RunFacts) -> None:
    """Draw that a selection in a run that goes on has to wait."""
    words = still_served(selected())
    if words:
        st.info(plain(words), icon=":material/hourglass_top:")
