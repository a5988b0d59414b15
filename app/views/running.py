"""The moving board of a run that is being served, kept when the run ends so that nothing jumps."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts
from app.components.live_board import live_board
from app.lab import Lab
from app.runs.facts import RunFacts
from app.theme import palettes
from app.views.finished_charts import ghost_of
from app.words.board import board_words
from store.metrics import STALL_MS
from store.summary import summary

SOCKET = "/live"


def running_board(lab: Lab, facts: RunFacts) -> bool:
    """Draw the board of a run that is not over, or that ended before this reader's eyes with something to show. Says
    whether it was drawn.
    """
    watched = st.session_state.get("watched") == facts.run_id
    began = bool((facts.status.get("progress") or {}).get("iterations"))
    if facts.is_final and not (watched and began):
        return False
    st.session_state["watched"] = facts.run_id
    live_board(
        {
            "run": facts.run_id,
            "state": facts.state,
            "token": lab.socket_token,
            "path": SOCKET,
            "palettes": palettes(),
            "words": board_words(),
            "stall_ms": STALL_MS,
            "expected_tokens": facts.spec.expected_tokens,
            "open_ended": facts.spec.served,
            "ghost": _ghost(lab, facts),
        },
        key="board",
    )
    return True


def _ghost(lab: Lab, facts: RunFacts) -> dict[str, Any] | None:
    """The earlier run behind this one, as plain lists; looked up once per run and session."""
    kept = st.session_state.get("ghost")
    if kept is None or kept[0] != facts.run_id:
        with lab.database.read() as con:
            ghost = ghost_of(lab, con, facts)
            figures = (summary(con, ghost.run_id) if ghost is not None else None) or {}
        points = None
        if ghost is not None:
            points = {
                "name": ghost.name,
                "stalls": figures.get("stalls"),
                "longest_ms": (figures.get("itl_ms") or {}).get("max"),
                "t": charts.column(ghost.table, "t").round(3).tolist(),
                "itl_ms": charts.column(ghost.table, "itl_ms").round(3).tolist(),
            }
        kept = (facts.run_id, points)
        st.session_state["ghost"] = kept
    return kept[1]
