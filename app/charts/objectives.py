"""How many requests were served in time: with looser and tighter objectives, and the faster they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from app.charts.comparison import room_for_names, variant_style
from app.charts.frame import new_figure, say_nothing_here
from app.theme import Palette


def attainment_by_scale(
    scales: Sequence[float], attainment: Mapping[str, Sequence[float]], palette: Palette
) -> go.Figure:
    """Share of requests in time with both bounds multiplied by each scale, a line per variant; 1 is the objective
    itself.
    """
    figure = new_figure(palette, y_title="SLO attainment, %", x_title="bounds of the SLO, times")
    _as_shares(figure)
    for index, (name, reached) in enumerate(attainment.items()):
        colour, dash, _ = variant_style(index, palette)
        figure.add_scatter(
            x=list(scales),
            y=list(reached),
            name=name,
            mode="lines",
            line={"color": colour, "width": 2, "dash": dash},
            hovertemplate="%{y:.1%} in time with the bounds x %{x:.3~g}",
        )
    room_for_names(figure, len(attainment))
    figure.add_vline(x=1, line={"color": palette.muted, "width": 1, "dash": "dot"})
    figure.update_xaxes(type="log", rangemode="normal")
    return figure


def attainment_by_rate(groups: Sequence[Mapping[str, Any]], palette: Palette, *, goal: float) -> go.Figure:
    """Share of requests in time at each rate of arrivals, a line per group of the other settings (``name``,
    ``measured``; ``intervals`` of the shares, and ``goodput``, a rate that is marked, where known).
    """
    figure = new_figure(palette, y_title="SLO attainment, %", x_title="arrivals, requests/s")
    _as_shares(figure)
    if not any(group["measured"] for group in groups):
        return say_nothing_here(figure, "No rate was measured.", palette)
    for index, group in enumerate(groups):
        colour, dash, marker = variant_style(index, palette)
        figure.add_scatter(
            x=[rate for rate, _ in group["measured"]],
            y=[share for _, share in group["measured"]],
            name=group["name"],
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"symbol": marker, "size": 9},
            customdata=group.get("runs"),
            error_y=_bars([share for _, share in group["measured"]], group.get("intervals")),
            hovertemplate="%{y:.1%} in time at %{x:.3~g} requests/s<extra></extra>",
        )
        if (best := group.get("goodput")) is not None:
            figure.add_vline(x=best, line={"color": colour, "width": 1.5, "dash": "dash"})
    figure.add_hline(y=goal, line={"color": palette.muted, "width": 1, "dash": "dot"})
    figure.add_annotation(
        text=f"{goal:.0%} in time", x=1, y=goal, xref="x domain", xanchor="right", yanchor="bottom", showarrow=False,
        font={"color": palette.muted, "size": 13},
    )  # fmt: skip
    return figure


def _bars(shares: Sequence[float], intervals: Sequence[tuple[float, float] | None] | None) -> dict[str, Any]:
    """The intervals as bars around the shares; none where there are none."""
    if not intervals or not any(intervals):
        return {}
    ends = [around or (share, share) for share, around in zip(shares, intervals, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - share for share, (_, high) in zip(shares, ends, strict=True)],
        "arrayminus": [share - low for share, (low, _) in zip(shares, ends, strict=True)],
        "thickness": 1,
    }


def _as_shares(figure: go.Figure) -> None:
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
