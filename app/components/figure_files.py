"""Buttons that save the chart beside them as PNG or SVG: drawn by the browser, as the reader sees it, zoom included."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

FOLDER = files(__package__) / "figure_buttons"


@cache
def _component() -> Callable[..., Any]:
    styles = (files(__package__) / "quiet_button.css", FOLDER / "buttons.css")
    return st.components.v2.component(
        "servescope_figure_files",
        css="\n".join(path.read_text(encoding="utf-8") for path in styles),
        js=(FOLDER / "buttons.js").read_text(encoding="utf-8"),
    )


def figure_files(chart: str, *, name: str, background: str) -> None:
    """PNG and SVG of the Plotly chart with the widget key ``chart``, as files ``name.png`` and ``name.svg``."""
    _component()(
        key=f"files-{name}",
        data={"chart": chart, "name": name, "background": background},
        width="content",
        height="content",
    )
