"""A chart alone on the whole screen, scaled up with its text, without toolbars."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

FOLDER = files(__package__) / "full_screen"


@cache
def _component() -> Callable[..., Any]:
    css = (files(__package__) / "quiet_button.css").read_text(encoding="utf-8")
    js = (FOLDER / "screen.js").read_text(encoding="utf-8")
    return st.components.v2.component("servescope_full_screen", css=css, js=js)


def full_screen_button(container: str, *, key: str = "") -> None:
    """Shows the chart in the container of that widget key full screen; ``key`` (a letter) does so from the keyboard."""
    _component()(
        key=f"full-screen-{container}", data={"container": container, "key": key}, width="content", height="content"
    )
