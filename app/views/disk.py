"""Disk that runs take, a limit to it, and what would go to keep below; said before anything goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.errors import LabError, on_page
from app.lab import Lab
from app.retention import GB, Plan, keep_to, plan_retention, read_rule, write_rule
from app.rights import Right, offered_with
from app.views.trash import attempt
from app.words.plain import clock, counted, plain
from app.words.text import disk_size

MOST_NAMED = 200
GONE = "retention-gone"


@offered_with(Right.DELETE)
def disk_panel(lab: Lab, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw it, folded together. ``runs``: the store's, with their ``bytes``."""
    try:
        plan = plan_retention(lab.home, read_rule(lab.home), runs)
    except LabError as error:
        st.error(plain(on_page(error)), icon=":material/error:")
        return
    title = f"Disk: runs take {disk_size(plan.used)}"
    if plan.rule.limit_gb is not None:
        title += f" of {disk_size(plan.rule.limit_gb * GB)}"
    _taken_back(lab)
    with st.expander(title, icon=":material/hard_drive:", key="disk"):
        index = lab.home.database.stat().st_size if lab.home.database.exists() else 0
        st.caption(
            f"The trash has {disk_size(plan.trashed)}, the database {disk_size(index)}; "
            f"{disk_size(lab.home.free_bytes())} are free. Emptying the trash frees its space."
        )
        _rule(lab, plan)
        _what_goes(lab, plan)


def _rule(lab: Lab, plan: Plan) -> None:
    with st.form("retention", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        limit = st.number_input(
            "Limit, GB",
            min_value=0.0,
            max_value=1e6,
            value=plan.rule.limit_gb,
            placeholder="none",
            key="retention-limit",
            help="How much runs may take. Empty: as much as they need.",
        )
        by_itself = st.checkbox(
            "Keep to it by itself",
            value=plan.rule.by_itself,
            key="retention-by-itself",
            help="The lab then moves runs to the trash when it starts and before each new run. Off: only when you "
            "press the button below.",
        )
        if st.form_submit_button("Set"):
            attempt(write_rule, lab.home, limit or None, by_itself)
            st.rerun()


def _what_goes(lab: Lab, plan: Plan) -> None:
    """What the rule would delete now, and a button that does it."""
    st.caption(
        "The oldest runs that are over go to the trash first. What is pinned or tagged, part of an experiment or in a "
        f"report stays, as do runs that are not over: {counted(len(plan.stays), 'run')} here."
    )
    if plan.rule.limit_gb is None:
        return
    if not plan.goes:
        st.markdown("Nothing has to go." if plan.suffices else "Nothing may go, and yet the runs are above the limit.")
        return
    freed = plan.used - plan.left
    st.markdown(
        f"To keep to the limit, {counted(len(plan.goes), 'run')} with {disk_size(freed)} would go to the trash:"
        if plan.suffices
        else f"All that may go is {counted(len(plan.goes), 'run')} with {disk_size(freed)}; the rest stays above the "
        "limit:"
    )
    st.dataframe(
        [
            {
                "run": run["id"],
                "name": run["name"] or run["title"] or run["scenario"],
                "disk": disk_size(run["bytes"]),
                "made": clock(run["created_unix_ns"]),
            }
            for run in plan.goes[:MOST_NAMED]
        ],
        hide_index=True,
        height="content" if len(plan.goes) < 8 else 320,
        alt=f"{len(plan.goes)} runs that would go to the trash",
    )
    st.button(
        f"Move {counted(len(plan.goes), 'run')} to the trash",
        icon=":material/delete:",
        key="retention-now",
        help="Can be undone.",
        on_click=attempt,
        args=(_move, lab, plan),
    )


def _move(lab: Lab, plan: Plan) -> None:
    st.session_state[GONE] = keep_to(lab.home, plan.rule, plan.named)
    lab.collector.notify()


def _taken_back(lab: Lab) -> None:
    """What went by the last press of the button, with one that brings all of it back."""
    gone = [run for run in st.session_state.get(GONE, ()) if lab.home.trash_dir(run).is_dir()]
    if not gone:
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f"In the trash: {counted(len(gone), 'run')}", width="stretch")
        st.button("Bring them back", icon=":material/undo:", key="retention-undo", on_click=_back, args=(lab, gone))


def _back(lab: Lab, gone: list[str]) -> None:
    for run_id in gone:
        attempt(lab.restore, run_id)
    st.session_state.pop(GONE, None)
