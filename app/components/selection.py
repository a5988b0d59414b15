"""What a reader has selected of a run: an iteration, a request, a block of the KV pool, a stretch of time. It stands in
the address, so that a reload or a link shows it again, and follows through tabs and pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

from app.components.fields import told_by
from app.words.plain import is_number

NAMES = ("iteration", "request", "block", "from", "to")
"""Parameters of the address beside ``run``."""
LONGEST = 32  # characters of a value
LOOKED_AT, TURN = "looked-at", "turn"
"""Where the session keeps the address of the run that was looked at, and its open tab."""


@dataclass(frozen=True)
class Turn:
    """Which tab of a run was turned to, by what of the address, and how often a selection turned it."""

    run: str
    tab: str
    asked: Mapping[str, str]
    times: int = 0


@cache
def _component() -> Callable[..., Any]:
    folder = files(__package__)
    parts = (folder / "address" / "rewrite.js", folder / "selection" / "turns.js")
    script = "\n".join(path.read_text(encoding="utf-8") for path in parts)
    return st.components.v2.component("servescope_selection", js=script, isolate_styles=False)


def selected() -> dict[str, str]:
    """What the address selects, whether it is there or not."""
    return {name: st.query_params[name] for name in NAMES if name in st.query_params}


def follow_selection() -> None:
    """Have the browser tell what it has selected when the reader turns to another tab or page."""
    key = "selection"

    def turned() -> None:
        told = told_by(key, "turned")
        if isinstance(told, Mapping):
            select(told.get("selected"), address=told.get("to") == "tab")

    _component()(key=key, data={"known": selected()}, on_turned_change=turned, width="content", height="content")


def select(parts: Any, *, address: bool = True) -> None:
    """Take over what the browser, or a widget, has selected; no tab turns by it.

    ``address``: the page stays, so its address follows; else only what is remembered.
    """
    chosen = sound(parts)
    run = st.query_params.get("run", "")
    tab = st.query_params.get("tab")
    if run:
        st.session_state[LOOKED_AT] = {"run": run} | chosen | ({"tab": tab} if tab else {})
    turn: Turn | None = st.session_state.get(TURN)
    if not address:
        return
    _into_address(chosen)
    if turn is not None:
        st.session_state[TURN] = replace(turn, asked=chosen)


def open_selected(target: Mapping[str, str], beside: Any = None) -> None:
    """Turn the page to a part of a run. ``beside``: what else the browser had selected, which stays in the same run."""
    if target.get("run") in (None, st.query_params.get("run")):
        _into_address({**selected(), **sound(beside), **target})
    else:
        st.query_params.from_dict(target)


def turned_tab(tabs: Sequence[str], usual: str, points: Mapping[str, str]) -> Turn:
    """The tab to open: the one that the address names when the reader comes, then the one to which a part of the
    selection points that has changed. ``points``: such parts, and their tabs.
    """
    run, asked = st.query_params.get("run", ""), selected()
    turn: Turn | None = st.session_state.get(TURN)
    if turn is None or turn.run != run:
        named = st.query_params.get("tab")
        wanted = named if named in tabs else next((tab for name, tab in points.items() if name in asked), None)
        times = turn.times + (wanted is not None) if turn else 0  # else the tab of the run before stays
        turn = Turn(run, wanted or usual, asked, times)
    elif asked != turn.asked:
        changed = (tab for name, tab in points.items() if name in asked and asked[name] != turn.asked.get(name))
        tab = next(changed, None)
        turn = replace(turn, tab=tab or turn.tab, asked=asked, times=turn.times + (tab is not None))
    st.session_state[TURN] = turn
    return turn


def remember(tab: str) -> None:
    """Keep what is looked at, for when the reader comes back from another page."""
    st.session_state[LOOKED_AT] = {"run": st.query_params.get("run", ""), **selected(), "tab": tab}


def number_of(name: str) -> int | None:
    """A part of the selection that is a number; None where it is none, or there is none."""
    asked = st.query_params.get(name, "")
    return int(asked) if is_number(asked) else None


def looked_at() -> dict[str, str]:
    """What was looked at last, as parts of an address; empty where nothing was."""
    return dict(st.session_state.get(LOOKED_AT, {}))


def sound(parts: Any) -> dict[str, str]:
    """The parts of a selection that have a name and a value of fitting length."""
    if not isinstance(parts, Mapping):
        return {}
    return {name: parts[name] for name in NAMES if isinstance(parts.get(name), str) and len(parts[name]) <= LONGEST}


def _into_address(chosen: Mapping[str, str]) -> None:
    if {name: chosen[name] for name in NAMES if name in chosen} == selected():
        return
    others = {name: st.query_params.get_all(name) for name in st.query_params if name not in NAMES}
    st.query_params.from_dict(others | {name: chosen[name] for name in NAMES if name in chosen})  # one step of history
