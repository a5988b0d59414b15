"""What requests waited for, and what passed between their tokens: a bar per group of requests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, new_figure, rows, say_nothing_here
from app.theme import Palette

COLOURS = {
    "next_plan": "ghost",
    "budget": "prefill",
    "blocks": "kv_used",
    "max_requests": "decode",
    "policy": "mixed",
    "prefix": "kv_cached",
    "tails": "draft",
    "preempted": "stall",
    "beside_decodes": "decode",
    "beside_prefill": "prefill",
    "without": "mixed",
    "recomputed": "draft",
    "between": "ghost",
}
"""The palette's colour of each reason to wait and of each part of a gap, on every chart the same."""


def time_by_group(table: Table, titles: Mapping[str, str], palette: Palette, *, per: str, what: str) -> go.Figure:
    """Stacked bars of the mean time in ms.

    Args:
        table: ``group``, the column ``per`` by which times are divided, and ``<name>_ms`` for each name of ``titles``.
        titles: what stands in the legend, by name, in order.
        palette: colours.
        per: the column with the number of requests or gaps.
        what: title of the axis.
    """
    figure = new_figure(palette, y_title="", x_title=what, height=96 + 44 * max(1, rows(table)))
    number = column(table, per)
    if not rows(table) or not number.sum():
        return say_nothing_here(figure, "Nothing was recorded.", palette)
    groups = [str(group) or "all requests" for group in _list(table, "group")]
    for name, title in titles.items():
        spent = np.nan_to_num(column(table, f"{name}_ms"))
        if not spent.any():
            continue
        figure.add_bar(
            y=groups,
            x=spent / number,
            name=title,
            orientation="h",
            marker={"color": getattr(palette, COLOURS[name]), "line": {"color": palette.background, "width": 1}},
            customdata=np.stack([spent / 1e3, 100 * spent / np.maximum(_whole(table, titles), 1e-9)], axis=-1),
            hovertemplate="%{x:,.4~g} ms, %{customdata[1]:.0f} %<br>%{customdata[0]:,.4~g} s in all<extra>"
            + title
            + "</extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.3)
    figure.update_yaxes(automargin=True, autorange="reversed", type="category")
    return figure


def _whole(table: Table, titles: Mapping[str, str]) -> np.ndarray:
    return sum((np.nan_to_num(column(table, f"{name}_ms")) for name in titles), np.zeros(rows(table)))


def _list(table: Table, name: str) -> list[object]:
    values = table[name]
    return list(values.to_pylist() if hasattr(values, "to_pylist") else values)
