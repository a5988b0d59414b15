"""A chart of any table: the answer to a query that somebody wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from app.charts.frame import new_figure
from app.theme import DASHES, VARIANTS, Palette

Kind = Literal["line", "bars", "points"]
MOST_MARKS = 5000  # of one series; a browser draws no more of them well


def numeric(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The columns that hold numbers and nothing else."""
    return [
        name
        for name, values in columns.items()
        if any(v is not None for v in values)
        and all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values)
    ]


def answer_chart(
    columns: Mapping[str, Sequence[Any]], kind: Kind, x: str, ys: Sequence[str], palette: Palette
) -> go.Figure:
    """``ys`` over ``x``, each a series; where there are more rows than ``MOST_MARKS``, every k-th of them."""
    figure = new_figure(palette, y_title=ys[0] if len(ys) == 1 else "", x_title=x, height=380)
    step = len(columns[x]) // MOST_MARKS + 1
    colours = VARIANTS["dark" if palette.background < palette.text else "light"]
    for index, name in enumerate(ys):
        colour = colours[index % len(colours)]
        values: dict[str, Any] = {"x": list(columns[x][::step]), "y": list(columns[name][::step]), "name": name}
        if kind == "bars":
            figure.add_bar(**values, marker={"color": colour})
        elif kind == "points":
            figure.add_scatter(**values, mode="markers", marker={"color": colour, "size": 6, "opacity": 0.8})
        else:
            line = {"color": colour, "width": 2, "dash": DASHES[index % len(DASHES)]}
            figure.add_scatter(**values, mode="lines", line=line)
    figure.update_layout(showlegend=len(ys) > 1)
    return figure
