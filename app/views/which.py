"""Which run the Live page shows when its address names none: the one being served, else the newest."""

from __future__ import annotations

import streamlit as st

from app.lab import Lab
from app.runs.listing import list_runs


def run_to_show(lab: Lab) -> str | None:
    """The run of the address, the one being served, the newest, or None. The address is completed, so that it can be
    passed on.
    """
    named = st.query_params.get("run")
    if named:
        return named
    serving = lab.queue.running() or lab.queue.queued()
    if serving:
        found = serving[0]
    else:
        runs = list_runs(lab.home)
        if not runs:
            return None
        found = str(runs[0]["run_id"])
    st.query_params["run"] = found
    return found
