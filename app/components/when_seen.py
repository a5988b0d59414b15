"""Drawn once a reader comes near: a page of many charts shows its first at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

FOLDER = files(__package__) / "when_seen"


@cache
def _component() -> Callable[..., Any]:
    return st.components.v2.component(
        "servescope_when_seen", js=(FOLDER / "seen.js").read_text(encoding="utf-8"), isolate_styles=False
    )


def when_seen(draw: Callable[[], None], *, key: str, height: int) -> None:
    """Call ``draw`` once its place, ``height`` pixels high, is within half a window of what the reader sees; from then
    on it is drawn with the page. It must not need what is open only while the page is drawn.
    """
    st.fragment(_once_seen)(draw, f"seen-{key}", height)


def _once_seen(draw: Callable[[], None], key: str, height: int) -> None:
    seen = bool(st.session_state.get(key, {}).get("seen"))
    with st.container(gap=None):
        _component()(
            key=key,
            data={"height": height, "seen": seen},
            default={"seen": None},
            on_seen_change=lambda: None,
            width="stretch",
            height="content",
        )
        if seen:
            draw()
