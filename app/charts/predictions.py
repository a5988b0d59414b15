"""A prediction over what was measured: on a line, as a curve, in order."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from app.charts.frame import faded, new_figure
from app.theme import Palette, ink_on

Drawn = Mapping[str, Any]  # of a figure: x, values and intervals, one for each point
ONE_LINE = 210  # pixels
ROW = 52
YOURS, MEASURED = "Your prediction", "Measured"


def amount_chart(
    drawn: Drawn,
    predicted: tuple[float | None, float | None],
    palette: Palette,
    *,
    title: str,
    no_effect: float | None = None,
) -> go.Figure:
    """One figure on a line: its interval, its mean, and the ``predicted`` number or span (None: open on that side)."""
    value, ends = drawn["values"][0], drawn["intervals"][0]
    figure = new_figure(palette, y_title="", x_title=title, height=ONE_LINE)
    low, high = ends or (value, value)
    known = [one for one in (low, high, value, no_effect, *predicted) if one is not None]
    least, most = min(known, default=0.0), max(known, default=1.0)
    room = 0.12 * ((most - least) or abs(most) or 1.0)
    start, stop = (least - room if least - room < 0 and least < 0 else max(0.0, least - room)), most + room
    left, right = (start if predicted[0] is None else predicted[0]), (stop if predicted[1] is None else predicted[1])
    if left == right:
        figure.add_scatter(
            x=[left], y=[YOURS], name=YOURS, mode="markers",
            marker={"symbol": "diamond", "size": 16, "color": palette.draft}, hovertemplate="%{x:,.4~g}<extra></extra>",
        )  # fmt: skip
    else:
        _bar(figure, (left, right), YOURS, palette.draft)
    if value is not None:
        _bar(figure, (low, high), MEASURED, palette.decode)
        figure.add_scatter(
            x=[value], y=[MEASURED], name="mean", mode="markers",
            marker={"symbol": "line-ns-open", "size": 20, "color": palette.text, "line": {"width": 3}},
            hovertemplate="%{x:,.4~g}<extra>mean</extra>",
        )  # fmt: skip
        for end in {low, high}:
            figure.add_vline(x=end, line={"color": faded(palette.decode, 0.5), "width": 1, "dash": "dot"})
    if no_effect is not None:
        figure.add_vline(
            x=no_effect,
            line={"color": palette.muted, "width": 1.5, "dash": "dash"},
            annotation={"text": "no effect", "font": {"color": palette.muted, "size": 12}, "yref": "paper", "y": 1.0},
        )
    figure.update_xaxes(range=[start, stop], rangemode="normal")
    figure.update_yaxes(categoryorder="array", categoryarray=[MEASURED, YOURS], range=[-0.6, 1.6], showgrid=False)
    return figure.update_layout(showlegend=False)


def curve_chart(
    drawn: Drawn | None,
    places: Sequence[float],
    predicted: Sequence[float],
    palette: Palette,
    *,
    title: str,
    axis: str,
    most: float | None = None,
    missed: Sequence[int] = (),
) -> go.Figure:
    """A figure over the sweep with its intervals, where it was measured, and the predicted curve.

    ``most``: the axis's end. ``missed``: places of points that are not right, drawn as crosses.
    """
    figure = new_figure(palette, y_title=title, x_title=axis)
    if drawn is not None:
        ends = drawn["intervals"]
        up = [None if pair is None else pair[1] - value for value, pair in zip(drawn["values"], ends, strict=True)]
        down = [None if pair is None else value - pair[0] for value, pair in zip(drawn["values"], ends, strict=True)]
        figure.add_scatter(
            x=list(places), y=drawn["values"], name=MEASURED, mode="lines+markers",
            error_y={"type": "data", "symmetric": False, "array": up, "arrayminus": down},
            line={"color": palette.decode, "width": 3}, marker={"size": 9},
        )  # fmt: skip
    figure.add_scatter(
        x=list(places), y=list(predicted), name=YOURS, mode="lines+markers",
        line={"color": palette.draft, "width": 3, "dash": "dash"}, marker={"symbol": "diamond", "size": 11},
    )  # fmt: skip
    if missed:
        figure.add_scatter(
            x=[places[n] for n in missed], y=[predicted[n] for n in missed], name="missed", mode="markers",
            marker={"symbol": "x", "size": 15, "color": palette.stall}, hoverinfo="skip",
        )  # fmt: skip
    figure.update_xaxes(tickvals=list(places))
    if most is not None:
        figure.update_yaxes(range=[0, most])
    return figure.update_layout(showlegend=True)


def ordering_chart(
    order: Sequence[str], figures: Mapping[str, Drawn], palette: Palette, *, title: str, missed: Sequence[int] = ()
) -> go.Figure:
    """Figures as bars with their intervals, in the predicted ``order`` from the top: right where bars grow down.

    ``missed``: places of the pairs that are the other way round, as ``itertools.combinations`` gives them.
    """
    figure = new_figure(palette, y_title="", x_title=title, height=110 + ROW * len(order))
    names = [f"{n}. {name}" for n, name in enumerate(order, 1)]
    values = [figures[name]["values"][0] for name in order]
    ends = [figures[name]["intervals"][0] for name in order]
    marks = _misplaced(len(order), missed)
    figure.add_bar(
        x=values, y=names, orientation="h", width=0.5,
        marker={"color": [palette.stall if mark else palette.decode for mark in marks]},
        text=marks, textposition="inside", insidetextanchor="start", constraintext="none",
        textfont={"color": [ink_on(palette.stall) for _ in marks]},
        error_x={
            "type": "data", "symmetric": False, "color": palette.text,
            "array": [
                None if pair is None or value is None else pair[1] - value
                for value, pair in zip(values, ends, strict=True)
            ],
            "arrayminus": [
                None if pair is None or value is None else value - pair[0]
                for value, pair in zip(values, ends, strict=True)
            ],
        },
        hovertemplate="%{x:,.4~g}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False)
    return figure.update_layout(showlegend=False)


def _misplaced(count: int, missed: Sequence[int]) -> list[str]:
    """What is said on the bar of each place: nothing where no pair with it is the other way round."""
    pairs = list(itertools.combinations(range(count), 2))
    above, below = {pairs[n][0] for n in missed}, {pairs[n][1] for n in missed}
    return [
        "out of order" if n in above & below else "too far up" if n in above else "too far down" if n in below else ""
        for n in range(count)
    ]


def _bar(figure: go.Figure, ends: tuple[float, float], name: str, colour: str) -> None:
    figure.add_scatter(
        x=list(ends), y=[name, name], name=name, mode="lines", line={"color": colour, "width": 16},
        hovertemplate="%{x:,.4~g}<extra></extra>",
    )  # fmt: skip
