"""Draws the controls of the engine's settings, each with how it differs from the scenario and what is wrong with it.

Values live in the session (``app.settings.held``), so nothing typed is lost by switching a technique off, choosing
another scenario or leaving the page. A value the engine refuses stays where it was typed, with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import streamlit as st

from app.settings import controls as book
from app.settings.controls import Control
from app.settings.held import changes_of, complaints_of, key_of, reset
from app.settings.more_techniques import MORE, more_techniques
from app.settings.widgets import as_shown, draw_control
from app.words.plain import cut, plain
from scenarios import Scenario


class Form:
    """The controls of one scope, while they are drawn. ``links``: techniques lead to comparisons and papers."""

    def __init__(self, scenario: Scenario, scope: str, name: str, *, links: bool = True) -> None:
        self.scenario, self.scope, self.name, self.links = scenario, scope, name, links
        self.before = changes_of(scenario, scope)
        self.wrong = complaints_of(scenario, self.before)

    def engine(self) -> None:
        """Every control of the engine's settings."""
        self.reset_all()
        with st.container(key=f"{self._place}techniques", gap="small"):
            st.subheader("Techniques", anchor=False)
            for technique in book.leading_techniques():
                self.technique(technique)
            self._further_techniques()
        parts = {part.path for technique in book.techniques() for part in book.parts_of(technique)}
        rest = [c for c in book.controls() if c.kind != "technique" and c.path not in parts]
        st.subheader("Settings", anchor=False)
        for control in rest:
            if not control.advanced:
                self.setting(control)
        further = sorted((c for c in rest if c.advanced), key=lambda c: _group_order(rest, c))
        self._once_open("More settings", "more-settings", further, headings=True)

    def reset_all(self) -> None:
        """Say how many settings differ from the scenario, with one button to undo them."""
        count = len(self.before)
        if not count:
            st.caption("Every setting is the scenario's own.")
            return
        words = "1 setting differs" if count == 1 else f"{count} settings differ"
        st.button(
            f"Reset: {words} from the scenario",
            key=self._button("reset-all"),
            icon=":material/undo:",
            on_click=reset,
            args=(self.scenario, self.scope),
            width="stretch",
        )

    def technique(self, technique: Control) -> None:
        """A toggle that reveals its technique's settings."""
        with st.container(border=True, gap="small", key=f"{self._place}technique-{technique.path}"):
            on = self._draw(technique, book.value_of(self.scenario.engine, technique.path))
            if technique.paper:
                st.caption(technique.paper)
            self._mark(technique, book.value_of(self.scenario.engine, technique.path))
            if self.links:
                self._links(technique)
            if not on:
                return
            for part in book.parts_of(technique):
                if not part.advanced:
                    self.setting(part)
            further = [part for part in book.parts_of(technique) if part.advanced]
            if further:
                self._once_open("More", f"more-{technique.path}", further)

    def _further_techniques(self) -> None:
        """The techniques that do not lead, in a section of their own."""
        further = book.further_techniques()
        on = [technique.path for technique in further if self._is_on(technique)]
        if more_techniques(on, key=self._button(MORE), scope=self.scope):
            for technique in further:
                self.technique(technique)
        else:
            self.say_closed([c.path for technique in further for c in (technique, *book.parts_of(technique))])

    def _is_on(self, technique: Control) -> bool:
        usual = book.value_of(self.scenario.engine, technique.path)
        return bool(st.session_state.get(key_of(self.scope, technique.path), usual))

    def _once_open(self, title: str, name: str, controls: list[Control], *, headings: bool = False) -> None:
        """An expander whose controls are drawn only while it is open; of a closed one its changes and faults are said.
        ``headings``: their groups' names stand above them.
        """
        box = st.expander(title, key=self._button(name), on_change="rerun")
        if not box.open:
            self.say_closed([control.path for control in controls])
            return
        group = ""
        with box:
            for control in controls:
                if headings and control.group != group:
                    group = control.group
                    st.markdown(f"**{group}**")
                self.setting(control)

    def say_closed(self, paths: Sequence[str]) -> None:
        """Of settings whose controls are not drawn: those that differ from the scenario, and those that are wrong."""
        changed = [path for path in paths if path in self.before]
        if changed:
            st.caption(plain("Changed: " + "; ".join(f"{path}={cut(self.before[path])}" for path in changed)))
        self.complain(path for path in self.wrong if path not in paths)

    def setting(self, control: Control) -> None:
        """One control of the engine's settings."""
        self.control(control, book.value_of(self.scenario.engine, control.path))

    def control(self, control: Control, usual: Any) -> None:
        """One control, with what is wrong with its value or how it differs from the scenario below it."""
        self._draw(control, usual)
        self._mark(control, usual)

    def complain(self, paths: Iterable[str]) -> None:
        """What is wrong and stands at none of the controls that are drawn."""
        drawn = set(paths)
        for path, error in self.wrong.items():
            if path not in drawn:
                st.error(plain(f"{path}: {book.in_words(error)}"), icon=":material/error:")

    @property
    def _place(self) -> str:
        """Sets the containers of this form apart from those of another on the same page."""
        return "" if self.scope == self.name else f"{self.scope}-"

    def _button(self, name: str) -> str:
        return name if self.scope == self.name else f"{name}-{self.scope}"

    def _draw(self, control: Control, usual: Any) -> Any:
        return draw_control(control, key_of(self.scope, control.path), usual)

    def _links(self, technique: Control) -> None:
        st.page_link(
            "pages/compare.py",
            label="Compare with and without",
            icon=":material/balance:",
            query_params={
                "scenario": self.name,
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

    def _mark(self, control: Control, usual: Any) -> None:
        wrong = self.wrong.get(control.path) or self.wrong.get(control.path.removesuffix(".kind"))
        if wrong is not None:
            st.error(plain(book.at_the_control(wrong)), icon=":material/error:")
        if control.path not in self.before and control.path.removesuffix(".kind") not in self.before:
            return
        shown = str(as_shown(usual))
        st.button(
            plain(f"Changed; the scenario has {shown if len(shown) < 80 else 'another text'}"),
            key=self._button(f"reset:{control.path}"),
            type="tertiary",
            icon=":material/undo:",
            help="Back to the scenario's value",
            on_click=reset,
            args=(self.scenario, self.scope, [control.path]),
        )


def _group_order(rest: list[Control], control: Control) -> int:
    return next(index for index, other in enumerate(rest) if other.group == control.group)
