"""The picture of a paper's claim: its figures as bars, or over a sweep, with the intervals that decide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from app.charts.comparison import variant_style
from app.charts.frame import new_figure
from app.theme import Palette

WIDEST_TITLE = 28  # characters beside the vertical axis, which is shorter than a line

Drawn = Mapping[str, Mapping[str, Any]]  # figure -> x, values and intervals, as a judgement's evidence has them


def claim_chart(
    kind: str, of: Sequence[str], figures: Drawn, palette: Palette, *, title: str, axis: str = ""
) -> go.Figure:
    """``kind``: bars, one per figure and point, or lines over the sweep's ``axis``. ``of``: the figures, in order."""
    y_title = "<br>".join(textwrap.wrap(title, WIDEST_TITLE))
    figure = new_figure(palette, y_title=y_title, x_title=axis if kind == "lines" else "")
    for index, name in enumerate(of):
        colour, dash, marker = variant_style(index, palette)
        drawn = figures[name]
        bars = {"type": "data", "symmetric": False, "array": _reach(drawn, 1), "arrayminus": _reach(drawn, 0)}
        if kind == "lines":
            figure.add_scatter(
                x=drawn["x"],
                y=drawn["values"],
                error_y=bars,
                name=name,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"symbol": marker, "size": 8},
            )
        else:
            places = [name if x is None else f"{name} @ {x:g}" for x in drawn["x"]]
            figure.add_bar(x=places, y=drawn["values"], error_y=bars, name=name, marker_color=colour)
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(showlegend=kind == "lines")
    return figure


def _reach(drawn: Mapping[str, Any], side: int) -> list[float | None]:
    """How far each interval reaches above (1) or below (0) its value."""
    return [
        None if value is None or ends is None else abs(ends[side] - value)
        for value, ends in zip(drawn["values"], drawn["intervals"], strict=True)
    ]
