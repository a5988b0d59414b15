"""One request in two runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from app.charts.comparison import variant_style
from app.charts.frame import Table, column, new_figure, rows, say_nothing_here
from app.theme import Palette


def tokens_beside(tables: Mapping[str, Table], palette: Palette) -> go.Figure:
    """When each token of a request came, a line per run.

    Each table: ``tokens`` (so far), ``since_arrival_ms``, ``iteration``. A click on a mark opens the iteration.
    """
    figure = new_figure(palette, y_title="time since it arrived, ms", x_title="output so far, tokens")
    for index, (name, table) in enumerate(tables.items()):
        if not rows(table):
            continue
        colour, dash, _ = variant_style(index, palette)
        figure.add_scatter(
            x=column(table, "tokens").astype(np.float32),
            y=column(table, "since_arrival_ms").astype(np.float32),
            customdata=column(table, "iteration"),
            name=name,
            mode="lines+markers",
            marker={"size": 4, "color": colour},
            line={"color": colour, "width": 2, "dash": dash, "shape": "vh"},
            hovertemplate="token %{x:,d} after %{y:,.4~g} ms, iteration %{customdata:d}",
        )
    return figure if figure.data else say_nothing_here(figure, "None of its steps were recorded.", palette)
