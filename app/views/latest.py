"""The latest runs, experiments and verdicts, below the run that is shown: what came out, a click away."""

from __future__ import annotations

from functools import partial

import streamlit as st

from app.components.when_seen import when_seen
from app.experiments.listing import KINDS, Entry, folded, kind_in_list, list_all, title_of
from app.lab import Lab
from app.views.list_results import results
from app.views.run_filters import state_of
from app.words.plain import clock, cut, plain

MOST = 6
HEIGHT = 320  # pixels, about


def latest(lab: Lab) -> None:
    """Draw them once a reader comes near."""
    when_seen(partial(_latest, lab), key="latest", height=HEIGHT)


def _latest(lab: Lab) -> None:
    entries = list_all(lab.home)
    experiments = {entry["id"] for entry in entries if entry["kind"] != "run"}
    shown = [e for e in entries if not folded(e, experiments, runs_of_experiments=False, warm_ups=False)][:MOST]
    told, _ = results(lab, shown)
    st.markdown(
        "**Latest**", help="The newest runs, comparisons and verdicts on papers; the Runs page has all of them."
    )
    with st.container(key="latest-list", gap="small"):
        for entry in shown:
            with st.container(horizontal=True, vertical_alignment="center"):
                _link(entry)
                about = [KINDS[kind_in_list(entry)], state_of(entry), told.get(entry["id"], "")]
                when = clock(entry["started_unix_ns"] or entry["created_unix_ns"])
                st.caption(plain(", ".join([*filter(None, about), when])), width="content")
    st.page_link("pages/runs.py", label="The whole list", icon=":material/list:")


def _link(entry: Entry) -> None:
    page, to = page_of(entry)
    st.page_link(page, label=plain(cut(title_of(entry))), query_params=to, width="content")


def page_of(entry: Entry) -> tuple[str, dict[str, str]]:
    """The page that shows a run or an experiment, and its parameters."""
    if entry["kind"] == "run":
        return "pages/live.py", {"run": entry["id"]}
    if entry["kind"] == "verdict":
        return "pages/papers.py", {"paper": str(entry["paper"])}
    return "pages/compare.py", {"experiment": entry["id"]}
