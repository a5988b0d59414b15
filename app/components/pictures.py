"""Pictures of recorded runs on a canvas: an iteration, the KV pool, all requests, one request.

What they draw is made in ``store``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

from app.components.chart_card import page_palette
from app.components.fields import told_by
from app.components.selection import select

PARTS = (
    files(__package__) / "live" / "words.js",
    files(__package__) / "address" / "rewrite.js",
    files(__package__) / "room_bar" / "part.js",
    files(__package__) / "pictures" / "base.js",
    files(__package__) / "pictures" / "player.js",
)
FOLDER = files(__package__) / "pictures"


@cache
def script(*names: str) -> str:
    """A picture as one module: what all pictures share, then its own files."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (*PARTS, *(FOLDER / name for name in names)))


@cache
def _component(name: str, *scripts: str) -> Callable[..., Any]:
    styles = (FOLDER / "pictures.css").read_text(encoding="utf-8")
    return st.components.v2.component(f"servescope_{name}", css=styles, js=script(*scripts))


def iteration_picture(data: Mapping[str, Any], *, key: str, on_open: Callable[[Any], None]) -> None:
    """An iteration and those around it (``app.views.inspector``). ``on_open`` is told what was clicked."""

    _component("iteration", "iteration_times.js", "iteration.js")(
        key=key,
        data={**data, "palette": asdict(page_palette())},
        height="content",
        on_opened_change=lambda: on_open(told_by(key, "opened")),
        on_asked_change=lambda: select(told_by(key, "asked")),
    )


def pool_picture(data: Mapping[str, Any], *, key: str) -> None:
    """The KV pool as a map (``app.views.pool_map``)."""
    _component("pool", "replay.js", "pool.js")(
        key=key,
        data={**data, "palette": asdict(page_palette())},
        height="content",
        on_asked_change=lambda: select(told_by(key, "asked")),
    )


def requests_picture(data: Mapping[str, Any], *, key: str, on_open: Callable[[Any], None]) -> None:
    """All requests of a run over time (``app.views.timeline``). ``on_open`` is told what was clicked."""
    _component("requests", "requests.js")(
        key=key,
        data={**data, "palette": asdict(page_palette())},
        height="content",
        on_opened_change=lambda: on_open(told_by(key, "opened")),
    )


def waterfall_picture(data: Mapping[str, Any], *, key: str) -> None:
    """One request over time (``app.views.timeline``)."""
    _component("waterfall", "waterfall.js")(key=key, data={**data, "palette": asdict(page_palette())}, height="content")
