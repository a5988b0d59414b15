"""What a room predicted: bars of how many said what, or everybody's curves."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import plotly.graph_objects as go

from app.charts.frame import faded, new_figure
from app.theme import Palette

ROW = 44  # pixels
MOST_CURVES = 120


def answers_chart(bars: Sequence[tuple[str, int]], palette: Palette) -> go.Figure:
    """How many said what, from the top in the order given."""
    figure = new_figure(palette, y_title="", x_title="answers", height=100 + ROW * len(bars))
    names = [name for name, _ in bars]
    figure.add_bar(
        x=[count for _, count in bars], y=names, orientation="h", marker_color=palette.draft, width=0.6,
        hovertemplate="%{y}: %{x}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False)
    most = max((count for _, count in bars), default=0)
    figure.update_xaxes(range=[0, max(1, most) * 1.05], dtick=max(1, -(-most // 8)))
    return figure.update_layout(showlegend=False)


def curves_chart(
    curves: Sequence[Sequence[float]], places: Sequence[float], palette: Palette, *, title: str, axis: str
) -> go.Figure:
    """Everybody's curve, faint, and the median of each point."""
    figure = new_figure(palette, y_title=title, x_title=axis)
    for curve in curves[:MOST_CURVES]:
        figure.add_scatter(
            x=list(places), y=list(curve), mode="lines", line={"color": faded(palette.draft, 0.25), "width": 1.5},
            hoverinfo="skip",
        )  # fmt: skip
    if curves:
        figure.add_scatter(
            x=list(places), y=[median(points) for points in zip(*curves, strict=True)], mode="lines+markers",
            line={"color": palette.draft, "width": 3}, marker={"symbol": "diamond", "size": 10},
            hovertemplate="%{x:,.4~g}: %{y:,.4~g}<extra>median</extra>",
        )  # fmt: skip
    figure.update_xaxes(tickvals=list(places))
    return figure.update_layout(showlegend=False)
