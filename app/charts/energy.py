"""What a run's work cost in energy."""

from __future__ import annotations

import plotly.graph_objects as go

from app.charts.frame import Table, column, new_figure, opens
from app.theme import Palette


def energy_over_time(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``joules`` since the first sample."""
    figure = new_figure(palette, y_title="energy, J")
    figure.add_scatter(
        x=column(table, "t"),
        y=column(table, "joules"),
        mode="lines",
        line={"color": palette.prefill, "width": 2},
        hovertemplate="%{y:,.4~g} J by %{x:.2f} s<extra></extra>",
    )
    return figure


def energy_of_requests(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``request``, ``tokens`` computed for it, ``joules`` of its share. A click opens the request."""
    figure = new_figure(palette, x_title="computed, tokens", y_title="energy, J")
    figure.add_scatter(
        x=column(table, "tokens"),
        y=column(table, "joules"),
        customdata=column(table, "request"),
        mode="markers",
        marker={"color": palette.accent, "size": 7, "opacity": 0.7},
        hovertemplate="request %{customdata:.0f}: %{y:,.3~g} J for %{x:,} tokens<extra></extra>",
        meta=opens("request"),
    )
    return figure
