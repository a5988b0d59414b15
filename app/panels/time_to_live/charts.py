"""Charts of programs and pins: where programs' time went, when they were done, and how many blocks were pinned."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, faded, new_figure, rows, say_nothing_here, stacked
from app.panels.time_to_live.words import PARTS, REASONS
from app.theme import Palette

NO_PROGRAM = "No program was served to its end."


def programs(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.programs.programs_query``."""
    figure = new_figure(palette, y_title="mean time, s", x_title="programs in order of arrival")
    if not rows(table):
        return say_nothing_here(figure, NO_PROGRAM, palette)
    colours = {"running": palette.running, "queued": palette.waiting, "tool": faded(palette.ghost, 0.6)}
    custom = np.stack([column(table, "first"), column(table, "recomputed_tokens")], axis=1)
    shown = [(name, f"{part}_s", colours[part]) for part, name in PARTS.items()]
    said = "%{y:,.3~g} s, first turn is request %{customdata[0]}, %{customdata[1]:,.0f} tokens computed again"
    stacked(figure, np.arange(len(custom)), table, shown, said, customdata=custom)
    return figure.update_layout(bargap=0.1).update_xaxes(showticklabels=False)


def completion(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.programs.completion_query``."""
    figure = new_figure(palette, y_title="programs done, %", x_title="time since a program's first turn came, s")
    if not rows(table):
        return say_nothing_here(figure, NO_PROGRAM, palette)
    figure.add_scatter(
        x=np.concatenate([[0.0], column(table, "completion_s")]),
        y=100 * np.concatenate([[0.0], column(table, "share")]),
        mode="lines+markers",
        line={"color": palette.accent, "width": 2, "shape": "hv"},
        marker={"size": 5},
        name="programs",
        showlegend=False,
        hovertemplate="%{y:.3~g} % done within %{x:,.3~g} s<extra></extra>",
    )
    return figure.update_yaxes(range=[0, 105])


def pinned(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.programs.pinned_query``."""
    figure = new_figure(palette, y_title="pinned, blocks")
    if not rows(table):
        return say_nothing_here(figure, "No turn was pinned.", palette)
    times, blocks = column(table, "t"), column(table, "pinned")
    figure.add_scatter(
        x=times,
        y=blocks,
        mode="lines",
        line={"color": palette.kv_cached, "width": 2, "shape": "hv"},
        name="pinned",
        hovertemplate="%{y:,} blocks<extra>pinned</extra>",
    )
    why = np.asarray([reason or "" for reason in table["reason"].to_pylist()])
    marks = (
        ("back", "circle", palette.good),
        ("ttl", "diamond", palette.warn),
        ("forced", "x", palette.stall),
        ("cancelled", "square", palette.ghost),
    )
    for reason, symbol, colour in marks:
        here = why == reason
        if here.any():
            figure.add_scatter(
                x=times[here],
                y=blocks[here],
                customdata=column(table, "request")[here],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8},
                name=REASONS[reason],
                hovertemplate=f"{REASONS[reason]}, turn %{{customdata}}<extra></extra>",
            )
    return figure
