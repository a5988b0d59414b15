"""Charts of disaggregation: lifetimes in parts, transfers by their size, each half's time in steps and its threads."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, faded, new_figure, rows, say_nothing_here, stacked
from app.panels.placement.words import PARTS
from app.theme import Palette

NOTHING = "No request was handed over."


def lifetimes(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.handovers.lifetimes_query``."""
    figure = new_figure(palette, y_title="mean time, ms", x_title="requests in order of arrival")
    if not rows(table):
        return say_nothing_here(figure, "No request got a token.", palette)
    colours = {
        "prefill_queue": faded(palette.ghost, 0.6),
        "prefill": palette.prefill,
        "decode_queue": faded(palette.stall, 0.75),
        "transfer": palette.mixed,
        "decode": faded(palette.decode, 0.85),
    }
    first = column(table, "first")
    parts = [(name, f"{part}_ms", colours[part]) for part, name in PARTS.items()]
    said = "%{y:,.4~g} ms, from request %{customdata} on"
    stacked(figure, np.arange(len(first)), table, parts, said, customdata=first)
    return figure.update_layout(bargap=0.05).update_xaxes(showticklabels=False)


def transfers(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.handovers.transfers_query``."""
    figure = new_figure(palette, y_title="transfer, ms", x_title="handed over, MB")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    figure.add_scatter(
        x=column(table, "mb"),
        y=column(table, "transfer_ms"),
        customdata=column(table, "request"),
        mode="markers",
        name="transfer",
        showlegend=False,
        marker={"color": faded(palette.mixed, 0.7), "size": 6},
        hovertemplate="%{y:,.3~g} ms for %{x:,.3~g} MB<extra>request %{customdata}</extra>",
    )
    return figure.update_xaxes(rangemode="tozero").update_yaxes(rangemode="tozero")


def busy(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.handovers.busy_query``."""
    figure = new_figure(palette, y_title="time in steps, %")
    return _by_half(figure, table, palette, "share", 100, "%").update_yaxes(range=[0, 105])


def share(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.handovers.share_query``."""
    figure = new_figure(palette, y_title="cores, threads")
    return _by_half(figure, table, palette, "threads", 1, "threads").update_yaxes(rangemode="tozero")


def _by_half(figure: go.Figure, table: Table, palette: Palette, name: str, scale: float, unit: str) -> go.Figure:
    """A line for each half; a gap where it has no figure."""
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    for half, colour in (("prefill", palette.prefill), ("decode", palette.decode)):
        figure.add_scatter(
            x=column(table, "t"),
            y=scale * column(table, f"{half}_{name}"),
            mode="lines+markers" if name == "threads" else "lines",
            marker={"size": 8 if half == "prefill" else 4},  # both are seen where they have as many
            line={"color": colour, "width": 2, "shape": "hv"},
            name=f"{half} half",
            hovertemplate=f"%{{y:.3~g}} {unit}<extra>{half} half</extra>",
        )
    return figure
