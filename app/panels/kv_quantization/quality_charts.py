"""What codecs of the KV cache cost and give: side by side, and where in the model the error is."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from app.charts.frame import new_figure
from app.theme import Palette

NAME_SHARE = 0.1  # of the axis that a name takes


def room_and_loss(codecs: Sequence[dict[str, Any]], palette: Palette) -> go.Figure:
    """Each codec as a dot: how many times more tokens fit, and by how much its perplexity is higher."""
    figure = new_figure(
        palette, y_title="perplexity above full precision, %", x_title="tokens in the same memory, times"
    )
    figure.add_scatter(
        x=[codec["capacity"] for codec in codecs],
        y=[100 * codec["perplexity_change"] for codec in codecs],
        text=[html.escape(str(codec["name"])) for codec in codecs],
        mode="markers+text",
        textposition=beside_each_other([codec["capacity"] for codec in codecs]),
        marker={"size": 11, "color": palette.kv_used},
        hovertemplate="%{text}<br>%{x:.2f} times the tokens<br>perplexity %{y:+.2f} %<extra></extra>",
        cliponaxis=False,
        showlegend=False,
    )
    return figure


def beside_each_other(places: Sequence[float]) -> list[str]:
    """Where each name stands: above its dot, or below where the last name to the left would be in its way."""
    span = max(places, default=0.0)
    positions, last = ["top center"] * len(places), -1.0
    for n in sorted(range(len(places)), key=lambda n: places[n]):
        if last >= 0 and places[n] - last < NAME_SHARE * span:
            positions[n] = "bottom center"
            last = -1.0
        else:
            last = places[n]
    return positions


def error_map(errors: Sequence[Sequence[float]], palette: Palette, *, most: float) -> go.Figure:
    """``errors``: relative error per layer and KV head; ``most``: the end of the colour scale, so that maps can be
    compared.
    """
    figure = new_figure(palette, y_title="KV head", x_title="layer", height=200)
    figure.add_heatmap(
        z=[list(head) for head in zip(*errors, strict=True)],
        zmin=0,
        zmax=most,
        colorscale=[[0, palette.background], [1, palette.kv_used]],
        colorbar={"title": {"text": "error"}, "thickness": 10, "tickformat": ".2~%"},
        hovertemplate="layer %{x}, head %{y}<br>off by %{z:.2~%}<extra></extra>",
    )
    figure.update_yaxes(dtick=1)
    figure.update_xaxes(dtick=max(1, len(errors) // 10))
    return figure
