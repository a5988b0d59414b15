"""Requests in the engine and in the queue; blocks of the KV pool."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, faded, new_figure, rows, say_nothing_here, step_line
from app.theme import Palette

SMALL_SHARE = 0.3  # of the pool; below it the pool's own line would leave the use a flat streak


def running_and_waiting(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``running``, ``waiting`` (requests)."""
    figure = new_figure(palette, y_title="in the engine, requests")
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    t = column(table, "t")
    running = step_line(
        t, column(table, "running"), "running", palette.running, unit="requests", fill=faded(palette.running, 0.18)
    )
    figure.add_trace(running)
    figure.add_trace(step_line(t, column(table, "waiting"), "waiting", palette.waiting, unit="requests"))
    figure.update_layout(hovermode="x unified")
    return figure


def preemption_marks(
    t: np.ndarray,
    height: np.ndarray,
    thrown: np.ndarray,
    palette: Palette,
    *,
    run: str = "",
    yaxis: str = "y",
    named: bool = True,
) -> go.Scatter:
    """A cross at (s, ``height``) for every iteration that preempted somebody; ``thrown``: how many.

    ``run``: whose, if there are several; then all but the first are not ``named`` in the legend again.
    """
    return go.Scatter(
        x=t,
        y=height,
        name="preemption",
        legendgroup="preemption",
        mode="markers",
        marker={"color": palette.stall, "size": 10, "symbol": "x", "line": {"color": palette.background, "width": 1}},
        customdata=thrown,
        hovertemplate="%{customdata:d} preempted at %{x:.1f} s<extra>" + run + "</extra>",
        yaxis=yaxis,
        showlegend=named,
    )


def kv_pool(table: Table, palette: Palette, preemptions: Table | None = None) -> go.Figure:
    """``table``: ``t`` (s), ``blocks_used``, ``blocks_cached``, ``blocks_total`` (blocks).

    ``preemptions``: ``t`` (s), ``blocks_used``, ``preempted`` (requests) of the iterations that preempted somebody.
    """
    figure = new_figure(palette, y_title="KV pool, blocks")
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    t, used, cached = column(table, "t"), column(table, "blocks_used"), column(table, "blocks_cached")
    with_cached = used + np.nan_to_num(cached)
    if np.nansum(cached) > 0:
        both = step_line(
            t, with_cached, "used and cached", palette.kv_cached, unit="blocks", fill=faded(palette.kv_cached, 0.6)
        )
        figure.add_trace(both)
    figure.add_trace(step_line(t, used, "used", palette.kv_used, unit="blocks", fill=faded(palette.kv_used, 0.6)))
    total, peak = column(table, "blocks_total"), float(np.nanmax(with_cached, initial=0))
    figure.add_trace(step_line(t, total, "pool", palette.text, unit="blocks", dash="dash"))
    if peak < SMALL_SHARE * np.nanmax(total, initial=0):
        figure.update_yaxes(range=[0, max(4.0, peak * 1.3)])
        say = f"pool: {np.nanmax(total):,.0f} blocks"
        figure.add_annotation(
            x=1,
            y=1,
            xref="x domain",
            yref="y domain",
            text=say,
            showarrow=False,
            xanchor="right",
            font={"color": palette.muted},
        )
    if preemptions is not None and rows(preemptions):
        t, height, thrown = (column(preemptions, name) for name in ("t", "blocks_used", "preempted"))
        figure.add_trace(preemption_marks(t, height, thrown, palette))
    figure.update_layout(hovermode="x unified")
    return figure
