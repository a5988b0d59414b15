"""Charts of the KV pool's layout: its memory in parts over time, and what was mapped and given back."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, faded, new_figure, rows, say_nothing_here, stretches
from app.theme import Palette

NOTHING = "Nothing was recorded of the layout."
NAMES = {
    "used": "used",
    "internal": "internal fragmentation",
    "reserved": "reserved",
    "kept": "kept",
    "free": "free",
}


def parts(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.layouts.parts_query``."""
    figure = new_figure(palette, y_title="memory of the KV pool, MB")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    colours = {
        "used": faded(palette.kv_used, 0.9),
        "internal": faded(palette.stall, 0.75),
        "reserved": faded(palette.waiting, 0.6),
        "kept": faded(palette.kv_cached, 0.8),
        "free": faded(palette.ghost, 0.15),
    }
    kinds = ((name, f"{part}_mb", colours[part]) for part, name in NAMES.items())
    stretches(figure, table, kinds, "%{y:,.1f} MB")
    t = column(table, "t")
    resident = column(table, "resident_mb")
    seen = ~np.isnan(resident)
    if seen.any():
        figure.add_scatter(
            x=t[seen],
            y=resident[seen],
            name="resident",
            mode="lines+markers",
            line={"color": palette.text, "width": 2},
            marker={"size": 4},
            hovertemplate="%{y:,.1f} MB<extra>resident</extra>",
        )
    return figure


def pages(table: Table, palette: Palette) -> go.Figure:
    """``table``: likewise."""
    figure = new_figure(palette, y_title="memory, MB")
    if not np.nansum(column(table, "mapped_mb")):
        return say_nothing_here(figure, "All of the pool's memory is mapped from the start.", palette)
    t = column(table, "t")
    width = np.diff(t, prepend=0.0)
    kinds = (("mapped", "mapped_mb", palette.kv_used, 1), ("given back", "released_mb", palette.waiting, -1))
    for name, key, colour, sign in kinds:
        figure.add_bar(
            x=t - width / 2,
            y=sign * column(table, key),
            customdata=column(table, key),
            width=width,
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"%{{customdata:,.1f}} MB<extra>{name}</extra>",
        )
    return figure.update_layout(barmode="relative", bargap=0)
