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


def when_seen(draw: Callable[[], None], *, key: str, height: int, rank: int = 0) -> None:
    """Call ``draw`` once its place, ``height`` pixels high, is within half a window of what the reader sees; from then
    on it is drawn with the page. It must not need what is open only while the page is drawn. ``rank``: of several that
    wait, the lowest comes first.
    """
    st.fragment(_once_asked)(draw, f"seen-{key}", {"height": height, "rank": rank, "idle": False})


def once_idle(draw: Callable[[], None], *, key: str, height: int, rank: int = 0, now: bool = False) -> None:
    """As ``when_seen``, wherever its place is: once what the page showed first is painted. What the session has drawn
    once comes with the page from then on; ``now``: this time already.
    """
    drawn = f"drawn-{key}"
    st.session_state.setdefault(drawn, now)

    def kept() -> None:
        st.session_state[drawn] = True
        with st.container():  # a part of a page, with the gaps of one
            draw()

    st.fragment(_once_asked)(kept, f"seen-{key}", {"height": height, "rank": rank, "idle": True}, drawn)


def _once_asked(draw: Callable[[], None], key: str, place: dict[str, Any], drawn: str | None = None) -> None:
    seen = bool(st.session_state.get(key, {}).get("seen"))
    seen = seen or (drawn is not None and bool(st.session_state.get(drawn)))
    with st.container(gap=None):
        _component()(
            key=key,
            data=place | {"seen": seen},
            default={"seen": None},
            on_seen_change=lambda: None,
            width="stretch",
            height="content",
        )
        if seen:
            draw()
