"""The page of verdicts: what reproduces on this machine, with dates, and the same as a file."""

from __future__ import annotations

import streamlit as st

from app.claims.judge import VERDICTS, Judgement
from app.claims.records import latest
from app.claims.report import INTERVALS, TITLE, claims_page
from app.claims.words import ended
from app.components.address import keep_in_address
from app.lab import Lab
from app.rights import Right, offered_with
from app.views.paper_claim import judgements_here, verdict_badge
from app.views.papers import all_papers_button, open_button
from app.words.plain import plain
from scenarios import papers
from scenarios.papers import claim_file


def report_page(lab: Lab) -> None:
    """Draw every paper's latest verdict, and those whose claim was not run yet."""
    keep_in_address({"report": ["yes"]}, view="papers report")
    all_papers_button()
    st.title(TITLE, anchor=False)
    judgements = judgements_here(lab)
    best = latest(judgements)
    if best:
        rows = [
            {
                "Paper": plain(papers.card(name).system),
                "Verdict": verdict_badge(one.verdict),
                "Here": " ".join(map(plain, one.evidence["reasons"])),
                "In the paper": plain(one.evidence.get("paper", {}).get("figure", "")),
                "Run": f"{'quick' if one.quick else 'whole'}, {ended(one)}",
            }
            for name, one in sorted(best.items())
        ]
        st.caption(INTERVALS)
        with st.container(key="paper-verdicts"):
            st.table(rows, border="horizontal", hide_index=True, alt=TITLE)
        st.caption(
            " ".join(
                f"{name.capitalize()}: {VERDICTS[name]}"
                for name in VERDICTS
                if name in {o.verdict for o in best.values()}
            )
        )
        _one_page(judgements)
    without = [name for name in claim_file.names() if name not in best]
    if without:
        st.markdown("**Not run here yet**")
        with st.container(horizontal=True):
            for name in without:
                open_button(name, papers.card(name), papers.card(name).system)


@offered_with(Right.EXPORT)
def _one_page(judgements: list[Judgement]) -> None:
    st.download_button(
        "One page",
        data=lambda: claims_page(judgements).encode(),
        file_name="papers.html",
        mime="text/html",
        icon=":material/article:",
        key="papers-report",
        on_click="ignore",
        help="One file with every verdict, its figures and pictures; opens anywhere, offline.",
    )
