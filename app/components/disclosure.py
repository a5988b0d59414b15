"""A line that opens and closes what its caller draws below it: an expander whose text may change while it is open.

Streamlit takes an expander with another label for another expander, and draws it and all that is in it anew; a reader
at the keyboard is thrown out of it then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

from app.components.fields import told_by

FOLDER = files(__package__) / "disclosure"


@cache
def _component() -> Callable[..., Any]:
    css = (FOLDER / "disclosure.css").read_text(encoding="utf-8")
    js = (FOLDER / "disclosure.js").read_text(encoding="utf-8")
    return st.components.v2.component("servescope_disclosure", css=css, js=js)


def disclosure(label: str, *, key: str) -> bool:
    """Draw the line; whether what belongs below it is to be drawn. The session holds that under ``key``."""
    line = f"line-{key}"

    def turn() -> None:
        told = told_by(line, "turned")
        if told is not None:
            st.session_state[key] = bool(told["open"])

    is_open = bool(st.session_state.get(key))
    _component()(
        key=line,
        data={"label": label, "open": is_open},
        on_turned_change=turn,
        width="stretch",
        height="content",
    )
    return is_open
