"""The tour of the first visit, on the run that the lab has started by itself."""

from __future__ import annotations

from app.components.tour import Stop, tour
from app.lab import Lab
from app.words.charts import CHARTS

STOPS = (
    Stop(
        "A real engine is at work",
        "The lab has started a first run. Requests come in, a model writes the answers, and these figures are measured "
        "while it does.",
        (".st-key-board >>> .tiles", ".st-key-figures"),
    ),
    Stop(
        "Every dot is a token",
        "Its height is how long a reader waited for it. A dot far above the others is a stall: everybody waited while "
        "a long prompt was read.",
        (
            f".st-key-board >>> [aria-label='{CHARTS['itl'].title}']",
            ".st-key-card-token-gaps",
            ".st-key-card-iterations",
        ),
    ),
    Stop(
        "Turn one switch",
        "Scenarios, techniques and settings are here. Turn one switch and press Start: the same requests are served "
        "again, and the run before stays behind the charts to compare.",
        ("[data-testid=stSidebar][aria-expanded=true]", "[data-testid=stExpandSidebarButton]"),
    ),
    Stop(
        "Lessons",
        "Learn asks you to predict, runs the engine, and shows how your prediction fared. The Glossary has the words.",
        ("header a[href$='/learn']", "[data-testid=stExpandSidebarButton]"),
    ),
)


def first_visit(lab: Lab, run_id: str) -> None:
    """Give the tour beside the run with which an empty store begins."""
    if run_id == lab.starter_run:
        tour(STOPS)
