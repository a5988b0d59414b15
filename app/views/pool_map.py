"""The KV map: every block of the pool as a cell, at any iteration."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app.components.pictures import pool_picture
from app.panels.panel import FinishedRun
from store import pool_map


def kv_map(run: FinishedRun, iteration: int | None = None) -> None:
    """Draw the map.

    With an ``iteration`` it follows the picture of that iteration on the same page, else it has its own slider
    and begins with the iteration of the address, or where the pool was fullest.
    """
    con, run_id = run.con, run.facts.run_id
    known = pool_map.fullest_query(run_id).rows(con)[0]
    if known["last"] is None:
        return
    key = f"kv-map-{run_id}{'' if iteration is None else '-beside'}"
    shown = iteration if iteration is not None else st.session_state.get(f"{key}-at", _asked(known))
    window = pool_map.pool_window(con, run_id, shown)
    st.markdown(
        "**KV map**",
        help=(
            "Every block of the KV pool is a cell, rebuilt from the recorded changes of blocks. "
            "Move over a cell to see whose it is."
        ),
    )
    if window is None:
        recording = run.facts.spec.engine.recording
        st.info(
            (
                f"What happened to the blocks was not recorded (recording: {recording}). "
                "Set recording to full and run it again."
            )
            if recording != "full"
            else "Nothing happened to any block in this run."
        )
        return
    pool_picture(
        {
            "run": run_id,
            "follows": iteration is not None,
            "iteration": shown,
            "first": known["first"],
            "last": known["last"],
            "from": window.first,
            "until": window.last,
            "blocks": window.blocks,
            "block_size": run.facts.spec.engine.block_size,
            "start": window.start,
            "holders": window.holders,
            "events": window.events,
            "steps": window.steps,
            "names": {str(row["request"]): row["request_id"] for row in pool_map.names_query(run_id).rows(con)},
        },
        key=key,
    )


def _asked(known: Mapping[str, int]) -> int:
    """The iteration of the address, if the run has it."""
    asked = st.query_params.get("iteration", "")
    there = asked.isdecimal() and len(asked) < 16 and known["first"] <= int(asked) <= known["last"]
    return int(asked) if there else known["fullest"]
