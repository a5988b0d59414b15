"""The machine's counters over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, new_figure, rows, say_nothing_here
from app.theme import Palette

GIB = 2**30


def device_activity(table: Table, palette: Palette, disturbed: Sequence[Mapping[str, Any]] = ()) -> go.Figure:
    """``table``: ``t`` (s), ``utilization``, ``cpu_percent``, ``host_cpu_percent`` (percent). ``disturbed``: stretches
    that are marked, as of ``store.machine.disturbed_stretches``.
    """
    figure = new_figure(palette, y_title="busy, %")
    drawn = _line(figure, table, "utilization", "device busy", palette.accent, "solid", "%")
    drawn |= _line(figure, table, "cpu_percent", "this process, of one core", palette.draft, "dash", "%")
    drawn |= _line(figure, table, "host_cpu_percent", "whole machine", palette.ghost, "dot", "%")
    _mark(figure, disturbed, palette)
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


def _mark(figure: go.Figure, disturbed: Sequence[Mapping[str, Any]], palette: Palette) -> None:
    """Shade the stretches behind the lines, each kind in its colour, with its name in the legend."""
    kinds = {"throttled": ("throttled", palette.stall), "others": ("other processes", palette.warn)}
    figure.layout.shapes = [
        {
            "type": "rect",
            "x0": one["from_s"],
            "x1": one["to_s"],
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "fillcolor": kinds[one["kind"]][1],
            "opacity": 0.15,
            "line": {"width": 0},
            "layer": "below",
        }
        for one in disturbed
    ]
    for kind in sorted({one["kind"] for one in disturbed}):
        name, colour = kinds[kind]
        marker = {"color": colour, "opacity": 0.4, "symbol": "square", "size": 11}
        figure.add_scatter(x=[None], y=[None], name=name, mode="markers", marker=marker, hoverinfo="skip")


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
