"""What a run was told and where it ran: every setting, the model, the machine, the measured peaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.runs.facts import RunFacts
from app.settings.given import flat, settings_rows


def setup_tables(facts: RunFacts, row: Mapping[str, Any]) -> None:
    """Draw the tables. ``row``: the run's row, JSON columns decoded."""
    st.markdown("**Settings**")
    settings = settings_rows(facts.spec.engine)
    st.dataframe(settings, hide_index=True, height="content", alt="Every setting that had a say in the run")
    for key, title in (
        ("model", "Model"),
        ("environment", "Machine and versions"),
        ("peaks", "Measured peaks"),
        ("summary", "Totals"),
    ):
        section = row.get(key)
        if not isinstance(section, dict) or not section:
            continue
        st.markdown(f"**{title}**")
        pairs = [{"what": name, "value": value} for name, value in flat(section)]
        st.dataframe(pairs, hide_index=True, height="content", alt=title)
