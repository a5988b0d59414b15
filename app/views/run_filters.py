"""What of the list a reader asks for: words, kinds, tags, states, what is folded away, and figures as columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app.components.address import keep_in_address
from app.components.fields import begin
from app.experiments.listing import KINDS, Entry, folded, matches
from app.runs.run_figures import COLUMNS, USUAL
from app.words.states import EXPERIMENT_STATES, STATES

KEPT = "runs-wanted"
"""Where the session keeps what was asked for while another page is shown."""
KEYS = ("run-search", "run-kinds", "run-tags", "run-states", "run-columns", "run-of-experiments", "run-warm-ups")
EMPTY: dict[str, Any] = {
    "run-search": "",
    "run-columns": list(USUAL),
    "run-of-experiments": False,
    "run-warm-ups": False,
}
ADDRESS = {"words": "run-search", "kind": "run-kinds", "tag": "run-tags"}
"""Parameters of the address, and the widgets that they set."""


@dataclass(frozen=True)
class Wanted:
    words: str
    kinds: Sequence[str]
    tags: Sequence[str]
    states: Sequence[str]
    columns: Sequence[str]
    runs_of_experiments: bool
    warm_ups: bool

    def matches(self, entry: Entry) -> bool:
        return matches(entry, self.words, self.kinds, self.tags) and (not self.states or state_of(entry) in self.states)

    def folds(self, entry: Entry, experiments: Collection[str]) -> bool:
        return folded(entry, experiments, runs_of_experiments=self.runs_of_experiments, warm_ups=self.warm_ups)


def run_filters(entries: Sequence[Entry]) -> Wanted:
    """Draw them; what is asked for stays in the address and while other pages are shown."""
    tags = known_tags(entries)
    states = sorted({state_of(entry) for entry in entries})
    _begin(tags, states)
    words = st.text_input(
        "Search",
        key="run-search",
        placeholder="name, notes, tag, scenario, label, model or id",
        live=True,
        help="Finds what has every word somewhere.",
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kinds = st.multiselect("Kind", list(KINDS), format_func=KINDS.__getitem__, key="run-kinds", placeholder="any")
        tagged: list[str] = []
        if tags:
            tagged = st.multiselect("Tags", tags, key="run-tags", placeholder="any", help="What has all of them.")
        chosen = st.multiselect(
            "State", states, format_func=lambda one: one.capitalize(), key="run-states", placeholder="any"
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        columns = st.multiselect(
            "Figures", list(COLUMNS), format_func=COLUMNS.__getitem__, key="run-columns", help="A column for each."
        )
        of_experiments = st.toggle(
            "Runs of experiments",
            key="run-of-experiments",
            help="The single runs of comparisons, sweeps, searches and verdicts, which stand in the list themselves.",
        )
        warm_ups = st.toggle("Warm-ups", key="run-warm-ups", help="Runs before a comparison that count for nothing.")
    wanted = Wanted(words or "", kinds, tagged, chosen, columns, of_experiments, warm_ups)
    st.session_state[KEPT] = {key: st.session_state[key] for key in KEYS}
    keep_in_address({"words": [wanted.words] if wanted.words else [], "kind": kinds, "tag": tagged}, view="runs")
    return wanted


def show_runs_of(experiment_id: str) -> None:
    """Ask for the runs of one experiment (before the filters are drawn)."""
    for key in ("run-kinds", "run-tags", "run-states"):
        st.session_state[key] = []
    st.session_state["run-search"] = experiment_id
    st.session_state["run-of-experiments"] = True


def known_tags(entries: Sequence[Entry]) -> list[str]:
    return sorted({tag for entry in entries for tag in entry["tags"]}, key=str.lower)


def state_of(entry: Entry) -> str:
    """Its state in a word."""
    words = STATES if entry["kind"] == "run" else EXPERIMENT_STATES
    return words.get(entry["status"], (entry["status"],))[0].lower()


def _begin(tags: Sequence[str], states: Sequence[str]) -> None:
    """Give the widgets what the address asks for, or what was asked for last; what is not there any more is let go."""
    state = st.session_state
    if "run-search" not in state:
        asked: dict[str, Any] = {
            key: st.query_params.get(name, "") if key == "run-search" else st.query_params.get_all(name)
            for name, key in ADDRESS.items()
            if name in st.query_params
        }
        state.update({key: [] for key in KEYS} | EMPTY | (asked or state.get(KEPT, {})))
    state.setdefault("run-tags", [])  # tags have a field while there are any
    for key, known in (("run-kinds", KINDS), ("run-tags", tags), ("run-states", states)):
        there = [one for one in state[key] if one in known]
        if there != state[key]:
            state[key] = there
    for key in KEYS:
        begin(key)
