"""Pictures of recorded runs on a canvas: an iteration, the KV pool, all requests, one request.

What they draw is made in ``store``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

from app.components.chart_card import Rows, data_row, page_palette
from app.components.fields import told_by
from app.components.pin_button import can_pin, pin_picture
from app.components.selection import select
from app.words.charts import ChartWords
from store.query import Query

PARTS = (
    files(__package__) / "live" / "words.js",
    files(__package__) / "address" / "rewrite.js",
    files(__package__) / "room_bar" / "part.js",
    files(__package__) / "pictures" / "base.js",
    files(__package__) / "pictures" / "files.js",
    files(__package__) / "pictures" / "player.js",
)
FOLDER = files(__package__) / "pictures"


@cache
def script(*names: str) -> str:
    """A picture as one module: what all pictures share, then its own files."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (*PARTS, *(FOLDER / name for name in names)))


@dataclass(frozen=True)
class Behind:
    """What stands behind a picture: its title and explanation, its rows, the question that gave them, its file's name;
    ``summary``: the picture in words, for a report.
    """

    words: ChartWords
    table: Rows
    query: Query
    name: str
    summary: str


@cache
def _component(name: str, *scripts: str) -> Callable[..., Any]:
    styles = (FOLDER / "pictures.css").read_text(encoding="utf-8")
    return st.components.v2.component(f"servescope_{name}", css=styles, js=script(*scripts))


def iteration_picture(data: Mapping[str, Any], behind: Behind, *, key: str, on_open: Callable[[Any], None]) -> None:
    """An iteration and those around it (``app.views.inspector``). ``on_open`` is told what was clicked."""
    _picture(
        _component("iteration", "iteration_times.js", "iteration.js"),
        data,
        behind,
        key,
        on_opened_change=lambda: on_open(told_by(key, "opened")),
        on_asked_change=lambda: select(told_by(key, "asked")),
    )


def pool_picture(data: Mapping[str, Any], behind: Behind, *, key: str) -> None:
    """The KV pool as a map (``app.views.pool_map``)."""
    _picture(
        _component("pool", "replay.js", "pool.js"),
        data,
        behind,
        key,
        on_asked_change=lambda: select(told_by(key, "asked")),
    )


def requests_picture(data: Mapping[str, Any], behind: Behind, *, key: str, on_open: Callable[[Any], None]) -> None:
    """All requests of a run over time (``app.views.timeline``). ``on_open`` is told what was clicked."""
    _picture(
        _component("requests", "requests.js"),
        data,
        behind,
        key,
        on_opened_change=lambda: on_open(told_by(key, "opened")),
    )


def tree_picture(data: Mapping[str, Any], behind: Behind, *, key: str) -> None:
    """The prefix tree, which follows the picture of an iteration (asked for by the panel of prefix sharing)."""
    _picture(_component("tree", "tree.js"), data, behind, key)


def waterfall_picture(data: Mapping[str, Any], behind: Behind, *, key: str) -> None:
    """One request over time (``app.views.timeline``)."""
    _picture(_component("waterfall", "waterfall.js"), data, behind, key)


def _picture(
    component: Callable[..., Any], data: Mapping[str, Any], behind: Behind, key: str, **told: Callable[[], None]
) -> None:
    """Draw a picture with its files, its rows and its question; a click on Pin offers it to a report."""
    files_of = {"name": behind.name, "pins": can_pin()}
    shown = component(
        key=key,
        data={**data, "palette": asdict(page_palette()), "files": files_of},
        height="content",
        on_pinned_change=lambda: None,
        **told,
    )
    data_row(behind.table, behind.query, name=behind.name)
    if shown.get("pinned"):
        pin_picture(behind.words, shown["pinned"], behind.query, behind.summary)
