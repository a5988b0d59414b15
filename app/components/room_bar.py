"""The bar above every page of a room: who is followed, how many have answered, and the way back to the presenter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

FOLDER = files(__package__) / "room_bar"
SCRIPTS = ("room_bar/part.js", "chart_links/turn.js", "room_bar/plots.js", "room_bar/look.js", "room_bar/bar.js")
KEY = "room-bar"
GO = "room-go"


@cache
def _component() -> Callable[..., Any]:
    return st.components.v2.component(
        "servescope_room_bar", css=(FOLDER / "bar.css").read_text(encoding="utf-8"), js=script()
    )


@cache
def script() -> str:
    """The bar as one module."""
    return "\n".join((files(__package__) / name).read_text(encoding="utf-8") for name in SCRIPTS)


def room_bar(*, viewer: bool, unshared: Sequence[str]) -> None:
    """Draw it. A viewer who follows is led where the presenter is (``led_to``), scrolled as far, and shown the same
    stretch of each chart; news of the room draw the page anew.

    ``unshared``: paths of pages that stay the presenter's own.
    """
    _component()(
        key=KEY,
        data={"viewer": viewer, "unshared": list(unshared)},
        on_go_change=_note,
        on_news_change=lambda: None,
        height="content",
    )


def led_to() -> tuple[str, str] | None:
    """Where the presenter has gone since the page was last drawn: a page's path and its parameters; told once."""
    shown = st.session_state.pop(GO, None)
    if not isinstance(shown, dict):
        return None
    page, query = shown.get("page"), shown.get("query")
    return (page, query) if isinstance(page, str) and isinstance(query, str) else None


def _note() -> None:
    st.session_state[GO] = st.session_state.get(KEY, {}).get("go")
