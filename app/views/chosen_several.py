"""Several rows that were chosen in the list: runs side by side, and tags for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import streamlit as st

from app.experiments.listing import Entry, title_of
from app.lab import Lab
from app.rights import Right, offered_with
from app.runs.facts import asked_apart
from app.runs.notes import write_notes
from app.runs.run_figures import ONE_RUN, settings_apart, side_by_side
from app.views.chosen import facts_of
from app.views.pair import BESIDE
from app.views.trash import attempt
from app.words.plain import counted
from store import queries


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
    """Figures and settings of the chosen runs, a column for each."""
    st.markdown(f"**{counted(len(runs), 'run')} side by side**")
    st.caption(ONE_RUN)
    with lab.database.read() as con:
        figures = queries.figures_of(con, [run["id"] for run in runs])
    st.dataframe(
        side_by_side([(title_of(run), figures.get(run["id"])) for run in runs]),
        hide_index=True,
        height="content",
        alt="Figures of the chosen runs",
    )
    known = [(title_of(run), facts) for run in runs if (facts := facts_of(lab, run["id"])) is not None]
    apart = settings_apart(known)
    if apart:
        st.dataframe(apart, hide_index=True, height="content", alt="Settings in which the chosen runs differ")
    else:
        st.caption("They were served with the same settings.")
    if why := asked_apart(*(facts for _, facts in known)):
        st.warning(f"They were asked different requests: {why}. Nothing here is paired.", icon=":material/warning:")
    elif len(known) == 2:
        st.page_link(
            "pages/compare.py",
            label="Step by step",
            icon=":material/compare_arrows:",
            help="Where their schedules part, and the same request in both.",
            query_params={"run": known[0][1].run_id, BESIDE: known[1][1].run_id},
        )
