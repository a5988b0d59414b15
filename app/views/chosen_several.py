"""Several rows that were chosen in the list: runs side by side, and tags for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import streamlit as st

from app.experiments.listing import Entry, title_of
from app.lab import Lab
from app.rights import Right, offered_with
from app.runs.notes import write_notes
from app.views.chosen import facts_of
from app.views.pair import BESIDE
from app.views.trash import attempt
from app.views.unpaired import runs_unpaired
from app.words.plain import counted


def chosen_several(lab: Lab, entries: Sequence[Entry], known_tags: Sequence[str]) -> None:
    """Draw what can be done with them all, and the runs among them."""
    runs = [entry for entry in entries if entry["kind"] == "run"]
    with st.container(border=True, key="side-by-side"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{counted(len(entries), 'row')} chosen**", width="content")
            _tag_all(lab, entries, known_tags)
        if len(runs) > 1:
            _side_by_side(lab, runs)
        if len(runs) < len(entries):
            st.caption(
                "An experiment has figures of its variants, which stand on its page, so none is in a column here."
            )


@offered_with(Right.RENAME)
def _tag_all(lab: Lab, entries: Sequence[Entry], known: Sequence[str]) -> None:
    with st.popover("Tags", icon=":material/sell:"), st.form("tag-all", border=False):
        tags = st.multiselect(
            "Tags", list(known), key="tags-of-all", accept_new_options=True, placeholder="type one and press Enter"
        )
        with st.container(horizontal=True):
            added = st.form_submit_button("Add to all")
            taken = st.form_submit_button("Take from all")
    if added or taken:
        attempt(_change_tags, lab, entries, tags if added else (), tags if taken else ())
        st.rerun()


def _change_tags(lab: Lab, entries: Sequence[Entry], add: Iterable[str], take: Iterable[str]) -> None:
    gone = set(take)
    for entry in entries:
        write_notes(lab.home, entry["id"], tags=[*(tag for tag in entry["tags"] if tag not in gone), *add])


def _side_by_side(lab: Lab, runs: Sequence[Entry]) -> None:
    known = {run["id"]: facts for run in runs if (facts := facts_of(lab, run["id"])) is not None}
    if runs_unpaired(lab, {run["id"]: title_of(run) for run in runs}, known) and len(known) == 2:
        one, other = known
        st.page_link(
            "pages/compare.py",
            label="Step by step",
            icon=":material/compare_arrows:",
            help="Where their schedules part, and the same request in both.",
            query_params={"run": one, BESIDE: other},
        )
