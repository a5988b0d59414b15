"""What will be asked, in pictures: how many requests come when, and how long they are."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.charts.frame import new_figure
from app.theme import Palette
from scenarios.preview import Bin

HEIGHT = 170
TICKS = 4


def counted_bars(counted: Sequence[Bin], palette: Palette, *, x_title: str) -> go.Figure:
    """Requests by bin, a bar each, as wide as its bin."""
    figure = new_figure(palette, y_title="asked, requests", x_title=x_title, height=HEIGHT)
    figure.add_bar(
        x=[(one.start + one.end) / 2 for one in counted],
        y=[one.count for one in counted],
        width=[one.end - one.start or 1.0 for one in counted],
        customdata=[one.in_words for one in counted],
        marker_color=palette.accent,
        hovertemplate="%{customdata}: %{y:,}<extra></extra>",
    )
    figure.update_layout(showlegend=False, bargap=0, margin={"t": 8})
    most = max(one.count for one in counted)
    figure.update_yaxes(tickformat=",d", dtick=-(-most // TICKS))
    return figure
