"""Draws the controls of ``app.settings.controls`` and gives back what the reader changed.

Values live in the session, apart for each scenario, so nothing typed is lost by switching a technique off, choosing
another scenario or leaving the page. A value the engine refuses stays where it was typed, with the reason beside it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.devices import gpu_count
from app.settings import controls as book
from app.settings.controls import Control
from app.words.plain import plain
from engine.config import EMBEDDED_MODEL, RANDOM_SHAPES, EngineConfig
from telemetry.refusal import with_field

AUTOMATIC = "automatic"
LARGEST_EXACT = 2**53  # beyond it a browser's numbers lose digits
WHOLE = re.compile(r"[+-]?\d{1,30}")
SUGGESTIONS: dict[str, Callable[[], list[str]]] = {
    "model": lambda: [EMBEDDED_MODEL, *(f"random:{shape}" for shape in RANDOM_SHAPES)],
    "device": lambda: ["auto", "cpu", *(f"cuda:{index}" for index in range(gpu_count()))],
}
"""Settings that take any text, with what most people want."""


@dataclass(frozen=True)
class Chosen:
    """The reader's settings: what differs from the scenario (as text by dotted name), and what is wrong with it."""

    changed: Mapping[str, str]
    complaints: Mapping[str, str]

    @property
    def fits(self) -> bool:
        return not self.complaints


def settings_form(base: EngineConfig, scenario: str) -> Chosen:
    """Draw every control in the current container; ``base`` holds the scenario's own settings."""
    form = _Form(base, scenario)
    form.reset_all()
    with st.container(key="techniques", gap="small"):
        st.subheader("Techniques", anchor=False)
        for technique in book.techniques():
            form.technique(technique)
    parts = {part.path for technique in book.techniques() for part in book.parts_of(technique)}
    rest = [c for c in book.controls() if c.kind != "technique" and c.path not in parts]
    st.subheader("Settings", anchor=False)
    for control in rest:
        if not control.advanced:
            form.control(control)
    with st.expander("More settings"):
        group = ""
        for control in sorted((c for c in rest if c.advanced), key=lambda c: _group_order(rest, c)):
            if control.group != group:
                group = control.group
                st.markdown(f"**{group}**")
            form.control(control)
    return form.chosen()


def take_settings(scenario: str, engine: EngineConfig) -> None:
    """Set every control as a run was served, before they are drawn; parts of techniques that were off stay as they
    are.
    """
    for control in book.controls():
        technique = control.path.rpartition(".")[0]
        if not technique or getattr(engine, technique) is not None:
            st.session_state[_key(scenario, control.path)] = book.value_of(engine, control.path)


def restore(scenario: str, settings: Sequence[str]) -> None:
    """Set controls as an address has them (``key=value``), before they are drawn; what cannot be is left as it is."""
    known = {control.path: control for control in book.controls()}
    for setting in settings:
        path, _, text = setting.partition("=")
        if path in known:
            with contextlib.suppress(ValueError, KeyError):
                st.session_state[_key(scenario, path)] = book.from_text(known[path], text)


def changes_of(base: EngineConfig, scenario: str) -> dict[str, str]:
    """What the session holds that differs from the scenario, without drawing anything."""
    values = {
        control.path: st.session_state[_key(scenario, control.path)]
        for control in book.controls()
        if _key(scenario, control.path) in st.session_state
    }
    return book.overrides(base, values)


def _key(scenario: str, path: str) -> str:
    return f"set:{scenario}:{path}"


def _group_order(rest: list[Control], control: Control) -> int:
    return next(index for index, other in enumerate(rest) if other.group == control.group)


class _Form:
    """The controls of one scenario, while they are drawn."""

    def __init__(self, base: EngineConfig, scenario: str) -> None:
        self.base = base
        self.scenario = scenario
        self.before = changes_of(base, scenario)
        self.wrong = book.complaints(base, self.before)

    def chosen(self) -> Chosen:
        changed = changes_of(self.base, self.scenario)
        wrong = book.complaints(self.base, changed)
        return Chosen(changed, {path: with_field(error) for path, error in wrong.items()})

    def reset_all(self) -> None:
        """Say how many settings differ from the scenario, with one button to undo them."""
        count = len(self.before)
        if not count:
            st.caption("Every setting is the scenario's own.")
            return
        words = "1 setting differs" if count == 1 else f"{count} settings differ"
        st.button(
            f"Reset: {words} from the scenario",
            key="reset-all",
            icon=":material/undo:",
            on_click=self._reset,
            args=(list(self.before),),
            width="stretch",
        )

    def technique(self, technique: Control) -> None:
        """A toggle that reveals its technique's settings."""
        with st.container(border=True, gap="small", key=f"technique-{technique.path}"):
            key = self._prepare(technique)
            on = st.toggle(technique.title, key=key, help=technique.explanation, persist_state="session")
            if technique.paper:
                st.caption(technique.paper)
            self._mark(technique)
            st.page_link(
                "pages/compare.py",
                label="Compare with and without",
                icon=":material/balance:",
                query_params={
                    "scenario": self.scenario,
                    "technique": technique.path,
                    "set": [f"{path}={text}" for path, text in self.before.items() if path != technique.path],
                },
            )
            st.page_link(
                "pages/papers.py",
                label="Papers",
                icon=":material/library_books:",
                query_params={"technique": technique.path},
                help="The papers that this technique belongs to.",
            )
            if not on:
                return
            for part in book.parts_of(technique):
                if not part.advanced:
                    self.control(part)
            further = [part for part in book.parts_of(technique) if part.advanced]
            if further:
                with st.expander("More"):
                    for part in further:
                        self.control(part)

    def control(self, control: Control) -> None:
        """One control, with what is wrong with its value or how it differs from the scenario below it."""
        key = self._prepare(control)
        held = st.session_state[key]
        common: dict[str, Any] = {"key": key, "help": control.explanation, "persist_state": "session"}
        empty = AUTOMATIC if control.optional else None
        if control.kind == "switch":
            st.toggle(control.label, **common)
        elif control.kind == "choice":
            options = ([None] if control.optional else []) + list(control.choices)
            st.selectbox(control.label, options, format_func=lambda value: _option(control, value), **common)
        elif control.path in SUGGESTIONS:
            options = _with(SUGGESTIONS[control.path](), held)
            st.selectbox(control.label, options, accept_new_options=True, **common)
        elif control.kind == "list":
            options = _with([], *(held or []))
            placeholder = "type one and press Enter"
            st.multiselect(control.label, options, accept_new_options=True, placeholder=placeholder, **common)
        elif control.kind == "whole" and not isinstance(held, str):
            st.number_input(control.label, value=None, step=1, format="%d", placeholder=empty, **common)
        elif control.kind == "number" and not isinstance(held, str):
            st.number_input(control.label, value=None, step=0.05, format="%g", placeholder=empty, **common)
        else:
            st.text_input(control.label, placeholder=empty, **common)
        self._mark(control)

    def _prepare(self, control: Control) -> str:
        """The control's key, with the scenario's value in the session where the reader has not set one."""
        key = _key(self.scenario, control.path)
        if key not in st.session_state:
            st.session_state[key] = book.value_of(self.base, control.path)
        fitting = _as_held(control, st.session_state[key])
        if fitting is not st.session_state[key]:
            st.session_state[key] = fitting
        return key

    def _mark(self, control: Control) -> None:
        if control.path in self.wrong:
            st.error(plain(book.at_the_control(self.wrong[control.path])), icon=":material/error:")
        if control.path not in self.before:
            return
        value = book.value_of(self.base, control.path)
        shown = ("on" if value else "off") if isinstance(value, bool) else AUTOMATIC if value is None else value
        st.button(
            f"Changed; the scenario has {shown}",
            key=f"reset:{control.path}",
            type="tertiary",
            icon=":material/undo:",
            help="Back to the scenario's value",
            on_click=self._reset,
            args=([control.path],),
        )

    def _reset(self, paths: list[str]) -> None:
        for path in paths:
            st.session_state[_key(self.scenario, path)] = book.value_of(self.base, path)


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
