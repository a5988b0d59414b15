"""The machine's counters over a run."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, new_figure, rows, say_nothing_here
from app.theme import Palette

GIB = 2**30


def device_activity(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``utilization``, ``cpu_percent``, ``host_cpu_percent`` (percent)."""
    figure = new_figure(palette, y_title="busy, %")
    drawn = _line(figure, table, "utilization", "device busy", palette.accent, "solid", "%")
    drawn |= _line(figure, table, "cpu_percent", "this process, of one core", palette.draft, "dash", "%")
    drawn |= _line(figure, table, "host_cpu_percent", "whole machine", palette.ghost, "dot", "%")
    return _finished(figure, drawn, palette)


def memory_and_power(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``memory_used``, ``process_memory`` (bytes), ``power`` (W)."""
    figure = new_figure(palette, y_title="memory, GiB")
    drawn = _line(figure, table, "memory_used", "memory in use", palette.kv_used, "solid", "GiB", 1 / GIB)
    drawn |= _line(figure, table, "process_memory", "this process", palette.draft, "dash", "GiB", 1 / GIB)
    if _line(figure, table, "power", "power", palette.prefill, "dot", "W", yaxis="y2"):
        drawn = True
        right = {
            "title": {"text": "power, W"},
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
        }
        figure.update_layout(yaxis2=right)
    return _finished(figure, drawn, palette)


def _line(
    figure: go.Figure,
    table: Table,
    name: str,
    title: str,
    colour: str,
    dash: str,
    unit: str,
    factor: float = 1.0,
    yaxis: str = "y",
) -> bool:
    """Draw one counter, if it has any value."""
    values = column(table, name) if rows(table) else np.array([])
    known = np.isfinite(values)
    if not known.any():
        return False
    figure.add_scatter(
        x=column(table, "t")[known],
        y=values[known] * factor,
        name=title,
        mode="lines",
        line={"color": colour, "width": 2, "dash": dash},
        yaxis=yaxis,
        hovertemplate=f"%{{y:,.3~g}} {unit}<extra>{title}</extra>",
    )
    return True


def _finished(figure: go.Figure, drawn: bool, palette: Palette) -> go.Figure:
    figure.update_layout(hovermode="x unified")
    return figure if drawn else say_nothing_here(figure, "This device reports none of these counters.", palette)
