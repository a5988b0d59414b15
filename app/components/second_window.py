"""A second window of the same browser that knows what the first one shows: for the notes of whoever speaks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

FOLDER = files(__package__) / "second_window"
FOLLOWS = "second-window"


@cache
def _component() -> Callable[..., Any]:
    return st.components.v2.component(
        "servescope_second_window",
        css=(files(__package__) / "quiet_button.css").read_text(encoding="utf-8"),
        js=(FOLDER / "window.js").read_text(encoding="utf-8"),
    )


def second_window_button(label: str, parameter: str, place: str) -> None:
    """A button that opens this page once more with ``parameter=yes``, and tells it the ``place`` shown here."""
    _component()(
        key="opens-second-window",
        data={"label": label, "parameter": parameter, "place": place},
        width="content",
        height="content",
    )


def place_of_first_window() -> str | None:
    """What the first window shows; None until it has said so. The page is drawn again when it shows something else."""
    _component()(
        key=FOLLOWS,
        data={"label": None},
        default={"place": None},
        on_place_change=lambda: None,
        width="content",
        height="content",
    )
    place = st.session_state.get(FOLLOWS, {}).get("place")
    return place if isinstance(place, str) else None
