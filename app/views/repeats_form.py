"""How often an experiment serves what it compares: repeats, until when more are added, and disturbed runs again."""

from __future__ import annotations

import streamlit as st

from app.experiments.stop_rule import FIGURES, MOST, WIDTH
from app.views.kept_fields import KeptFields, one_of, rate, whole
from app.words.plain import plain
from store.plan import StopRule
from store.statistics import STATISTICS

REPEATS, MOST_REPEATS = 5, 100
MOST_AGAIN = 10
USUAL_FIGURE = "itl_ms_p99"
NARROWEST, WIDEST = 0.5, 50.0  # percent


def repeats_form(kept: KeptFields) -> tuple[int, int]:
    """How many repeats, and how often a disturbed run is served again."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        several = kept.begin("repeats", REPEATS, whole(1, MOST_REPEATS))
        about = "Fewer than two cannot give a verdict."
        repeats = int(st.number_input("Repeats", 1, MOST_REPEATS, several, key="compare-repeats", help=about))
        kept.note("repeats", repeats, REPEATS)
        again = int(
            st.number_input(
                "Disturbed runs again",
                0,
                MOST_AGAIN,
                kept.begin("again", 0, whole(0, MOST_AGAIN)),
                key="compare-again",
                help="How often a run is served again that other processes or the device itself disturbed.",
            )
        )
        kept.note("again", again, 0)
    return repeats, again


def seeds_form(kept: KeptFields) -> bool:
    """Whether each repeat of a comparison asks requests of its own."""
    begun = kept.begin("seeds", "", one_of(["yes"])) == "yes"
    seeds = st.toggle(
        "Other requests in each repeat",
        begun,
        key="compare-seeds",
        help="Each repeat draws arrivals, lengths and prompts from a seed of its own, so the intervals hold for "
        "requests like these and not for these alone. Within a repeat every variant is asked the same.",
    )
    kept.note("seeds", "yes" if seeds else "", "")
    return seeds


def stop_form(kept: KeptFields, repeats: int) -> StopRule | None:
    """Until when a comparison adds repeats; None: it serves those that were asked for. ``repeats``: it begins with."""
    begun = kept.begin("until", "", one_of(list(FIGURES)))
    until = st.toggle(
        "More repeats until it is sure",
        bool(begun),
        key="compare-until",
        help="Adds repeats after the first while the ratio of a figure still scatters too much.",
    )
    if not until:
        return None
    metric = st.selectbox(
        "Figure",
        FIGURES,
        index=FIGURES.index(begun or USUAL_FIGURE),
        format_func=lambda name: STATISTICS[name].title,
        key="compare-until-figure",
    )
    with st.container(horizontal=True):
        percent = 100 * WIDTH
        width = st.number_input(
            "Ratio within ± %",
            NARROWEST,
            WIDEST,
            min(WIDEST, max(NARROWEST, kept.begin("width", percent, rate))),
            key="compare-until-width",
        )
        most = int(
            st.number_input(
                "Repeats at most",
                2,
                MOST_REPEATS,
                kept.begin("most", MOST, whole(2, MOST_REPEATS)),
                key="compare-until-most",
            )
        )
    kept.note("until", metric, "")
    kept.note("width", width, percent)
    kept.note("most", most, MOST)
    title = STATISTICS[metric].title
    begins = min(repeats, most)
    st.caption(plain(f"Begins with {begins}; until the ratio of {title} is known to ±{width:g} %, {most} at most."))
    return StopRule(metric, width / 100, most)
