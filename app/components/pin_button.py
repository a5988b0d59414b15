"""A button beside a chart that offers it to a report. What a report is, stands above: who draws pages says what a click
does (``offer``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from app.charts.picture import of_png
from app.errors import LabError, on_page
from app.rights import Right, may, needs, offered_with
from app.words.charts import ChartWords
from app.words.plain import plain
from store.query import Query


@dataclass(frozen=True)
class Offered:
    """A chart that a reader wants to pin, as it is drawn."""

    words: ChartWords
    figure: go.Figure
    query: Query
    summary: str

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of the runs that its query asks about."""
        asked = (self.query.parameters.get(name) for name in ("run", "before", "after"))
        return tuple(dict.fromkeys(run for run in asked if isinstance(run, str)))


_offer: list[Callable[[Offered], None]] = []


def offer(what: Callable[[Offered], None]) -> None:
    """Say what a click on a pin button does."""
    _offer[:] = [what]


@offered_with(Right.KEEP)
def pin_button(
    words: ChartWords, figure: go.Figure | Callable[[], go.Figure], query: Query, summary: str, *, name: str
) -> None:
    """Draw the button, where there are reports to pin to."""
    if _offer and st.button(
        "Pin", icon=":material/push_pin:", type="tertiary", key=f"pin-{name}", help="Put this chart into a report"
    ):
        made = figure if isinstance(figure, go.Figure) else figure()
        _offer[0](Offered(words, made, query, summary))


def can_pin() -> bool:
    """Whether there are reports to pin to, and the reader may."""
    return bool(_offer) and may(Right.KEEP)


@needs(Right.KEEP)
def pin_picture(words: ChartWords, painted: object, query: Query, summary: str) -> None:
    """Offer what the browser painted, a PNG as a data URL; says so where it is none."""
    try:
        figure = of_png(painted)
    except LabError as error:
        st.error(plain(on_page(error)))
        return
    _offer[0](Offered(words, figure, query, summary))
