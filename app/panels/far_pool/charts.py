"""Charts of a far pool: both pools over time, where each request's keys lie, step time over the far share."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, faded, new_figure, rows, say_nothing_here, stretches
from app.theme import Palette

NOTHING = "Nothing went to the far pool."
NO_DECODES = "No step without prompt tokens was recorded."


def pools(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.lending.pools_query``."""
    figure = new_figure(palette, y_title="held by requests, blocks")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    kinds = (
        ("KV pool", "near_blocks", faded(palette.kv_used, 0.9)),
        ("far pool", "far_blocks", faded(palette.draft, 0.8)),
    )
    return stretches(figure, table, kinds, "%{y:,.0f} blocks")


def requests(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.lending.requests_query``."""
    figure = new_figure(palette, y_title="request")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    times, names = np.unique(column(table, "t")), np.unique(column(table, "request"))
    shares = np.full((len(names), len(times)), np.nan)
    tokens = np.full((len(names), len(times), 2), np.nan)
    place = np.searchsorted(names, column(table, "request")), np.searchsorted(times, column(table, "t"))
    shares[place] = 100 * column(table, "far_share")
    tokens[place] = np.stack([column(table, "far_tokens"), column(table, "near_tokens")], axis=1)
    figure.add_heatmap(
        x=times,
        y=[f"{name:.0f}" for name in names],
        z=shares,
        customdata=tokens,
        zmin=0,
        zmax=100,
        colorscale=[[0, palette.kv_used], [1, palette.draft]],
        colorbar={"title": {"text": "far, %", "font": {"size": 12}}, "thickness": 10},
        hoverongaps=False,
        hovertemplate="%{z:.0f} % in the far pool: %{customdata[0]:,.0f} tokens there, %{customdata[1]:,.0f} in the KV "
        "pool<extra>request %{y}</extra>",
    )
    return figure.update_yaxes(type="category")


def steps(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.lending.steps_query``."""
    figure = new_figure(palette, y_title="step time, ms", x_title="keys in the far pool, %")
    if not rows(table):
        return say_nothing_here(figure, NO_DECODES, palette)
    figure.add_scatter(
        x=100 * column(table, "share"),
        y=column(table, "ms"),
        customdata=np.stack([column(table, name) for name in ("decode_requests", "far_ms", "link_ms")], axis=1),
        mode="markers",
        marker={"color": faded(palette.decode, 0.55), "size": 5},
        name="decode steps",
        showlegend=False,
        hovertemplate="%{y:,.1f} ms at %{x:.0f} %, %{customdata[0]:.0f} decodes: %{customdata[1]:,.2f} ms attention "
        "there, %{customdata[2]:,.2f} ms link<extra></extra>",
    )
    return figure.update_yaxes(rangemode="tozero")
