"""Fields whose values the session holds, each told to the browser until the browser has it; and what components tell.

Streamlit sends what the session holds of a field with one drawing of it. A drawing that is interrupted, because the
reader went on, may never reach the browser; the field then appears empty, and its emptiness comes back as if the reader
had emptied it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

T = TypeVar("T")
SENT = "fields-of-browser"
"""Where the session keeps which widgets the browser sent the values of last."""


def note_sent_fields() -> None:
    """Keep which widgets the browser has, before anything of the page is drawn. It sends the values of all of them
    whenever it asks for a page; a page that is drawn anew by itself was asked for by nobody.
    """
    sent = _values_sent()
    if sent:
        st.session_state[SENT] = frozenset(sent)


def begin(key: str, usual: T | None = None) -> Any:
    """Have the widget that is drawn next under ``key`` show what the session holds, ``usual`` where it holds nothing.

    Call it before the widget is drawn, which must not stand in ``st.form``: what stands there is sent with the form
    only. Returns the value.
    """
    held = st.session_state.get(key, usual)
    if key not in st.session_state or not _browser_has(key):
        st.session_state[key] = held
    return held


def told_by(key: str, name: str) -> Any:
    """What a component, or the table of that key, has told in a callback; None where nothing is known of it any more.

    A reader who turns to another page has what was drawn before forgotten; what it told last may come after that.
    """
    told = st.session_state.get(key)
    return told.get(name) if isinstance(told, Mapping) else None


def _browser_has(key: str) -> bool:
    """Whether the browser holds a value of the field, its own or one that it was told."""
    context = get_script_run_ctx()
    widget = None if context is None else context.session_state._state.get_widget_id_from_key(key)
    return widget is not None and (widget in _values_sent() or widget in st.session_state.get(SENT, ()))


def _values_sent() -> set[str]:
    """Ids of widgets whose values came with this request, and of those drawn since."""
    context = get_script_run_ctx()
    return set() if context is None else set(context.session_state._state._new_widget_state.states)
