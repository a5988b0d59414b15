"""The live board: tiles, the sentence on what limits the engine, and moving charts of one run, fed by the lab's live
socket.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import streamlit as st

SCRIPTS = (
    "words.js",
    "columns.js",
    "feed.js",
    "view.js",
    "paint.js",
    "chart.js",
    "itl.js",
    "charts.js",
    "tiles.js",
    "board.js",
)
FOLDER = files(__package__) / "live"


@cache
def _uplot() -> Path:
    """The folder of uPlot's own files. Found without importing the Python package around them, which takes IPython
    along.
    """
    spec = find_spec("uplot")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The package uplot-python is missing; make setup installs it.")
    return Path(spec.submodule_search_locations[0]) / "static"


@cache
def script() -> str:
    """The board as one module: uPlot first, then our files in an order in which each knows the ones before it."""
    parts = [(_uplot() / "uPlot.iife.js").read_text(encoding="utf-8")]
    parts += [(files(__package__) / "room_bar" / "part.js").read_text(encoding="utf-8")]
    parts += [(FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return "\n".join(parts)


@cache
def styles() -> str:
    """uPlot's style sheet and ours."""
    ours = (FOLDER / "board.css").read_text(encoding="utf-8")
    return (_uplot() / "uPlot.min.css").read_text(encoding="utf-8") + "\n" + ours


@cache
def _component() -> Callable[..., Any]:
    return st.components.v2.component("servescope_live_board", css=styles(), js=script())


def live_board(data: dict[str, Any], *, key: str) -> None:
    """Put the board on the page, which is drawn again when the run's state changes.

    ``data``: ``run`` (its id), ``state`` (the run's as the page knows it), ``token`` and ``path`` of the live socket,
    ``palettes`` and ``words`` (``charts``, ``tiles``), ``stall_ms``, ``expected_tokens`` (output tokens if no request
    ends early) and ``ghost`` (None, or of an earlier run ``name``, ``t`` in s, ``itl_ms``, and over all its gaps
    ``stalls`` and ``longest_ms``). All texts in it are shown as text, never as markup.
    """
    _component()(key=key, data=data, on_turned_change=lambda: None)
