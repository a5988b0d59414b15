"""Which run the Live page shows when its address names none: the one being served, the one looked at last, the
newest.
"""

from __future__ import annotations

import streamlit as st

from app.components.selection import looked_at
from app.lab import Lab
from app.runs.listing import list_runs


def run_to_show(lab: Lab) -> str | None:
    """The run of the address, the one being served, the one that this reader looked at last with what was selected in
    it, the newest, or None. The address is completed, so that it can be passed on.
    """
    named = st.query_params.get("run")
    if named:
        return named
    serving = lab.queue.running() or lab.queue.queued()
    before = looked_at()
    if serving:
        run_id = serving[0]
    elif before.get("run") and lab.home.run_dir(before["run"]).is_dir():
        st.query_params.update(before)  # beside what the address asks of the panel
        return before["run"]
    else:
        runs = list_runs(lab.home)
        if not runs:
            return None
        run_id = str(runs[0]["run_id"])
    st.query_params["run"] = run_id
    return run_id
