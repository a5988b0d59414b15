"""Runs side by side that nothing pairs: their figures and settings, a column for each."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app.lab import Lab
from app.runs.facts import RunFacts, asked_apart
from app.runs.run_figures import ONE_RUN, settings_apart, side_by_side
from app.words.plain import counted
from store import queries


def runs_unpaired(lab: Lab, titles: Mapping[str, str], known: Mapping[str, RunFacts]) -> bool:
    """Draw the runs of ``titles``, by id. Whether they were asked the same. ``known``: those whose folder can be
    read.
    """
    st.markdown(f"**{counted(len(titles), 'run')} side by side**")
    st.caption(ONE_RUN)
    with lab.database.read() as con:
        figures = queries.figures_of(con, list(titles))
    st.dataframe(
        side_by_side([(title, figures.get(run_id)) for run_id, title in titles.items()]),
        hide_index=True,
        height="content",
        alt="Figures of the chosen runs",
    )
    apart = settings_apart([(titles[run_id], facts) for run_id, facts in known.items()])
    if any(facts.foreign for facts in known.values()):
        st.caption("Another engine served some of them; what it was set to is not known.")
    elif apart:
        st.dataframe(apart, hide_index=True, height="content", alt="Settings in which the chosen runs differ")
    else:
        st.caption("They were served with the same settings.")
    why = asked_apart(*known.values())
    if why:
        st.warning(f"They were asked different requests: {why}. Nothing here is paired.", icon=":material/warning:")
    return not why
