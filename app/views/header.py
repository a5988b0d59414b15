"""The head of a run: what it is, its labels, its state, and what can be done with it now."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from app.errors import LabError
from app.lab import Lab
from app.panels.sentences import label_in_words
from app.rights import Right, may, visitor
from app.runs.facts import RunFacts, load_run
from app.settings import controls as book
from app.views.exchange_settings import run_settings_links
from app.views.start import flip_button, use_settings
from app.words.plain import plain
from app.words.states import STATES
from store import queries
from telemetry.refusal import in_words
from telemetry.status import LABEL_DISTURBED

CHECK_EVERY_S = 3.0
SELDOM_S = 10.0
"""How often a run is looked at that has a board: it tells of a change of state at once, where it reaches the lab, and
each look has the browser go through the whole page."""


def run_header(lab: Lab, facts: RunFacts) -> None:
    """Title, labels and the one thing to do next; a run that is not over is looked at again and again,
    its end turns the page.
    """
    if lab.collector.problem:
        st.warning(plain(lab.collector.problem), icon=":material/warning:")
    with st.container(horizontal=True, vertical_alignment="center", key="head"):
        st.title(plain(facts.heading), anchor=False, width="stretch")
        if facts.is_final:
            if facts.state != "failed" and not facts.spec.served:  # the same settings would fail again
                flip_button(lab, facts)
        else:
            on_board = facts.state == "running" and not facts.spec.attached
            every = SELDOM_S if on_board else CHECK_EVERY_S
            with st.container(width="content"):
                st.fragment(_while_it_lasts, run_every=every)(lab, facts.run_id, facts.state)
    with st.container(horizontal=True, vertical_alignment="center"):
        state, help_text = STATES.get(facts.state, (facts.state, ""))
        st.badge(state, color=_colour(facts.state), help=help_text)
        for label, words in _labels(lab, facts).items():
            st.badge(plain(label), color="orange", icon=":material/label:", help=plain(words))
        st.caption(plain(f"{facts.switches}, {facts.spec.engine.model}, run {facts.run_id}"), width="content")
        if not visitor().is_viewer and not (facts.spec.attached or facts.spec.reported):
            with st.popover("Use its settings", icon=":material/tune:", help="This run's settings, for another one"):
                st.button("Set the panel so", key="use-settings", on_click=use_settings, args=(facts,))
                run_settings_links(facts)


def _labels(lab: Lab, facts: RunFacts) -> dict[str, str]:
    """The run's labels and what they mean; of a run that is over also what only its rows show."""
    labels = {label: label_in_words(label) for label in facts.labels}
    if facts.is_final:
        with lab.database.read() as con:
            known = queries.labels(con, facts.run_id)
        labels |= {label: label_in_words(label) for label in known["labels"]}
        if known["disturbances"]:
            labels[LABEL_DISTURBED] += f" Here: {'; '.join(known['disturbances'])}."
    return labels


def why_it_ended(facts: RunFacts) -> None:
    """For a run that did not finish: what happened, and what to change."""
    error = facts.status.get("error") or {}
    words = in_words(error)
    if error.get("field") not in (None, "", "run"):
        words = f"{_setting(str(error['field']))} = {str(error.get('value'))[:120]}: {words}"
    if facts.state == "cancelled":
        st.info(STATES["cancelled"][1], icon=":material/cancel:")
    elif facts.state in ("failed", "crashed"):
        st.error(plain(words or STATES[facts.state][1]), icon=":material/error:")
        if error.get("log_tail"):
            with st.expander("The last lines of the engine's log"):
                st.code("\n".join(str(line) for line in error["log_tail"]), language=None, wrap_lines=True)


def _setting(field: str) -> str:
    """A setting as the panel calls it; any other field as it is."""
    return next((control.title for control in book.controls() if control.path == field), field)


def _while_it_lasts(lab: Lab, run_id: str, seen: str) -> None:
    try:
        facts = load_run(lab.home, run_id)
    except LabError:
        st.rerun()
    if facts.state != seen:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", width="content"):
        if may(Right.CANCEL) and st.button(
            "Cancel the run", icon=":material/stop_circle:", key="cancel", help="What was done is kept."
        ):
            _cancel(lab, run_id)
        if st.session_state.get("cancelled") == run_id:
            st.caption("Ending after this iteration", width="content")
        elif facts.state == "queued":
            st.caption(_place_in_queue(lab, run_id), width="content")


def _cancel(lab: Lab, run_id: str) -> None:
    try:
        lab.queue.cancel(run_id)
        st.session_state["cancelled"] = run_id
    except LabError as error:
        st.error(plain(in_words(error)))


def _place_in_queue(lab: Lab, run_id: str) -> str:
    waiting = lab.queue.queued()
    if run_id not in waiting:
        return "Next, once the device is free"
    place = waiting.index(run_id)
    return f"Place {place + 1} in the queue" if place else "Next, once the device is free"


def _colour(state: str) -> Literal["green", "primary", "red", "gray"]:
    if state in ("failed", "crashed"):
        return "red"
    return "green" if state == "running" else "primary" if state == "finished" else "gray"
