"""Charts of a page tied together: one time axis for all that share the run's clock, and marks that open what they stand
for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

from app.components.fields import told_by
from app.components.selection import open_selected

KEY = "chart-links"
OPENS = ("iteration", "request")


@cache
def _component() -> Callable[..., Any]:
    names = ("address/rewrite.js", "chart_links/turn.js", "chart_links/links.js")
    script = "\n".join((files(__package__) / name).read_text(encoding="utf-8") for name in names)
    return st.components.v2.component("servescope_chart_links", js=script)


def chart_links() -> None:
    """Tie the charts of the page; a click on a mark turns the page to what it stands for."""
    _component()(key=KEY, on_opened_change=lambda: open_clicked(told_by(KEY, "opened")), height="content")


def clicked(click: Any) -> dict[str, str]:
    """A click as parts of an address; empty for anything that is none."""
    if not isinstance(click, Mapping) or click.get("opens") not in OPENS or type(click.get("number")) is not int:
        return {}
    target = {str(click["opens"]): str(click["number"])}
    return target | ({"run": str(click["run"])} if click.get("run") else {})


def open_clicked(click: Any) -> None:
    """Turn the page to the iteration or request that was clicked, in its run if that is another."""
    target = clicked(click)
    if target:
        open_selected(target, click.get("selected"))
