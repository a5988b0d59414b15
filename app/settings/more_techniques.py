"""The section of a form that holds the techniques which do not lead: closed until one of them is on, or wanted."""

from __future__ import annotations

from collections.abc import Collection

import streamlit as st

from app.components.disclosure import disclosure

MORE = "more-techniques"
"""Where the session holds whether the section of the Live page is open."""


def label_of(count: int, word: str = "on") -> str:
    """The section's title, with how many of its techniques are on."""
    return f"More techniques · {count or 'none'} {word}"


def more_techniques(on: Collection[str], *, key: str = MORE, scope: str = "", word: str = "on") -> bool:
    """Draw the section's line; whether its techniques are to be drawn.

    It opens by itself when one is on that was not when it was drawn last: a link, a preset, saved settings or a run's
    settings have switched it on. A reader may close it again.

    Args:
        on: paths of its techniques that are on.
        scope: whose settings they are; the section is open or closed for all scopes of a ``key``.
        word: what those are that are counted.
    """
    known = f"{key}-known-{scope}"
    if set(on) - set(st.session_state.get(known, ())):
        st.session_state[key] = True
    st.session_state[known] = tuple(on)
    return disclosure(label_of(len(on), word), key=key)
