"""One control as a widget: of the kind that its setting has, holding what the session has under its key."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import streamlit as st

from app.components.fields import begin
from app.devices import gpu_count
from app.settings.controls import Control
from engine.config import EMBEDDED_MODEL, RANDOM_SHAPES

AUTOMATIC = "automatic"
LARGEST_EXACT = 2**53  # beyond it a browser's numbers lose digits
WHOLE = re.compile(r"[+-]?\d{1,30}")
SUGGESTIONS: dict[str, Callable[[], list[str]]] = {
    "model": lambda: [EMBEDDED_MODEL, *(f"random:{shape}" for shape in RANDOM_SHAPES)],
    "device": lambda: ["auto", "cpu", *(f"cuda:{index}" for index in range(gpu_count()))],
}
"""Settings that take any text, with what most people want."""


def draw_control(control: Control, key: str, usual: Any) -> Any:
    """Draw the widget and return what it holds; ``usual``: what it begins with."""
    begun = begin(key, usual)
    held = _as_held(control, begun)
    if held is not begun:
        st.session_state[key] = held
    common: dict[str, Any] = {"key": key, "help": control.explanation, "persist_state": "session"}
    empty = AUTOMATIC if control.optional else None
    if control.kind in ("switch", "technique"):
        return st.toggle(control.label, **common)
    if control.kind == "choice":
        options = ([None] if control.optional else []) + list(control.choices)
        return st.selectbox(
            control.label, options, format_func=lambda value: _option(control, value), placeholder=empty, **common
        )
    if control.path in SUGGESTIONS:
        options = _with(SUGGESTIONS[control.path](), held)
        return st.selectbox(control.label, options, accept_new_options=True, **common)
    if control.kind == "list":
        options = _with([], *(held or []))
        placeholder = "type one and press Enter"
        return st.multiselect(control.label, options, accept_new_options=True, placeholder=placeholder, **common)
    if control.kind == "texts":
        return st.text_area(control.label, height=140, **common)
    if control.kind == "whole" and not isinstance(held, str):
        return st.number_input(control.label, value=None, step=1, format="%d", placeholder=empty, **common)
    if control.kind == "number" and not isinstance(held, str):
        return st.number_input(control.label, value=None, step=0.05, format="%g", placeholder=empty, **common)
    return st.text_input(control.label, placeholder=empty, **common)


def as_shown(value: Any) -> Any:
    """A value in a sentence beside its control."""
    return ("on" if value else "off") if isinstance(value, bool) else AUTOMATIC if value in (None, "") else value


def _with(options: list[str], *values: str | None) -> list[str]:
    """The options, with values that are not among them added."""
    return options + [value for value in dict.fromkeys(values) if value is not None and value not in options]


def _option(control: Control, value: Any) -> str:
    """A choice as the list shows it (which takes text only), with its short name, so that typing that finds it."""
    if value is None:
        return AUTOMATIC
    short = dict(control.aliases).get(value)
    return f"{value} ({short})" if short else str(value)


def _as_held(control: Control, value: Any) -> Any:
    """A value in the type its widget holds: numbers as they are, those that a browser would round as text."""
    if control.kind == "whole":
        if isinstance(value, str) and WHOLE.fullmatch(value.strip()):
            value = int(value)
        return str(value) if isinstance(value, int) and abs(value) >= LARGEST_EXACT else value
    return float(value) if control.kind == "number" and isinstance(value, int) else value
