"""Two or more variants in one picture: distributions, timelines, throughput against latency, a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import HEIGHT, TIME, Table, column, faded, new_figure, rows, say_nothing_here
from app.charts.iterations import tallest
from app.theme import DARK, DASHES, MARKERS, VARIANTS, Palette
from app.words.text import number
from store.knee import knee
from store.metrics import PERCENTILES, carried_up_to

CDF_POINTS = 200
MOST_NAMES, NAME_HEIGHT = 12, 20
TIMELINE_POINTS = 800
WIDEST = 10.0  # an interval of more than such a factor would squeeze everything else: it is in the table, not drawn
LOG_FROM = 4.0  # numbers that span such a factor stand on a logarithmic axis
FAR = 4.0  # a limit that many times above everything would squeeze it
INVISIBLE = "rgba(0,0,0,0)"


@dataclass(frozen=True)
class Point:
    """A variant in the plane of throughput and latency."""

    name: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


def variant_style(index: int, palette: Palette) -> tuple[str, str, str]:
    """Colour, dash and marker of the variant at a place; they begin anew after the last, in another pairing."""
    colours = VARIANTS["dark" if palette is DARK else "light"]
    turn = index // len(colours)
    return colours[index % len(colours)], DASHES[(index + turn) % len(DASHES)], MARKERS[(index + turn) % len(MARKERS)]


def cdf(samples: Mapping[str, np.ndarray], palette: Palette, *, title: str, log: bool = True) -> go.Figure:
    """The share of samples at or below each value, a line per variant. ``samples``: values in ms, NaN left out."""
    figure = new_figure(palette, y_title="samples, %", x_title=f"{title}, ms")
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    counts = []
    for index, (name, values) in enumerate(samples.items()):
        places = np.flatnonzero(np.isfinite(values))
        places = places[np.argsort(values[places], kind="stable")]
        known = values[places]
        if not len(known):
            continue
        counts.append(len(known))
        colour, dash, _ = variant_style(index, palette)
        at = np.unique(np.round(np.linspace(0, len(known) - 1, min(CDF_POINTS, len(known)))).astype(int))
        figure.add_scatter(
            x=known[at].astype(np.float32),
            y=((at + 1) / len(known)).astype(np.float32),
            name=name,
            customdata=places[at],
            **_clickable(colour),
            line={"color": colour, "width": 2, "dash": dash, "shape": "hv"},
            hovertemplate="%{y:.1%} within %{x:,.3~g} ms",
        )
    room_for_names(figure, len(samples))
    if counts:
        _too_few_above(figure, min(counts), palette)
    if log and counts and all(np.nanmin(v) > 0 for v in samples.values() if np.isfinite(v).any()):
        figure.update_xaxes(type="log", rangemode="normal")
    return figure if counts else say_nothing_here(figure, "No sample was recorded.", palette)


def _too_few_above(figure: go.Figure, count: int, palette: Palette) -> None:
    """Mark the share above which so few samples carry no percentile."""
    highest = carried_up_to(count)
    if highest >= max(PERCENTILES):
        return
    figure.add_hline(y=highest, line={"color": palette.muted, "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=1,
        y=highest,
        xref="x domain",
        text=f"above: too few of {count:,} samples",
        font={"color": palette.muted, "size": 12},
        showarrow=False,
        xanchor="right",
        yanchor="top",
    )


def room_for_names(figure: go.Figure, names: int) -> None:
    """Make a figure higher by what its legend needs; with too many names there is none, and a point says whose it
    is.
    """
    if names > MOST_NAMES:
        figure.update_layout(showlegend=False)
    else:
        figure.update_layout(height=HEIGHT + NAME_HEIGHT * max(0, names - 2))


def timelines(tables: Mapping[str, Table], palette: Palette, x_title: str = TIME) -> go.Figure:
    """Iteration durations over time, one strip per variant on one time axis; zooming one zooms all.

    Each table: ``t`` (s, or what ``x_title`` says), ``duration_ms``, ``prefill_tokens``, ``decode_tokens``,
    ``iteration``.
    """
    shown = {name: table for name, table in tables.items() if rows(table)}
    height = 70 + 130 * max(1, len(shown))
    figure = new_figure(palette, y_title="", height=height, x_title=x_title)
    if not shown:
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    share = 1 / len(shown)
    axis = figure.layout.yaxis.to_plotly_json()
    most = max(float(np.nanmax(column(table, "duration_ms"))) for table in shown.values())
    for index, (name, table) in enumerate(shown.items()):
        colour, _, _ = variant_style(index, palette)
        kept = tallest(column(table, "duration_ms"), TIMELINE_POINTS)
        about = np.stack(
            [column(table, key)[kept] for key in ("iteration", "prefill_tokens", "decode_tokens")], axis=-1
        )
        number = "" if index == 0 else str(index + 1)
        top = 1 - index * share
        figure.update_layout(
            {
                f"yaxis{number}": axis
                | {
                    "domain": [top - share * 0.84, top],
                    "range": [0, most * 1.05],
                    "title": axis["title"] | {"text": "duration, ms"},
                }
            }
        )
        figure.add_scatter(
            x=column(table, "t")[kept].astype(np.float32),
            y=column(table, "duration_ms")[kept].astype(np.float32),
            customdata=about.astype(np.float32),
            name=name,
            **_clickable(colour),
            line={"color": colour, "width": 1.5, "shape": "hv"},
            fill="tozeroy",
            fillcolor=faded(colour, 0.25),
            yaxis=f"y{number}",
            hovertemplate="iteration %{customdata[0]:d}, %{y:,.1f} ms<br>%{customdata[1]:d} prompt + "
            "%{customdata[2]:d} decode tokens<extra></extra>",
        )
    figure.update_xaxes(anchor="free", position=0)
    return figure


def throughput_latency(points: Sequence[Point], palette: Palette, *, x_title: str, y_title: str) -> go.Figure:
    """One mark per variant, its intervals as bars, and the front of those that no other beats on both axes."""
    figure = new_figure(palette, y_title=y_title, x_title=x_title, height=360)
    if not points:
        return say_nothing_here(figure, "No variant has both figures.", palette)
    front = pareto(points)
    figure.add_scatter(
        x=[points[n].x for n in front],
        y=[points[n].y for n in front],
        mode="lines",
        name="Pareto front",
        line={"color": palette.muted, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
    )
    for index, point in enumerate(points):
        colour, _, marker = variant_style(index, palette)
        figure.add_scatter(
            x=[point.x],
            y=[point.y],
            error_x=_bars(point.x, point.x_interval),
            error_y=_bars(point.y, point.y_interval),
            mode="markers",
            name=point.name,
            customdata=[point.name],
            marker={"color": colour, "size": 11, "symbol": marker},
            hovertemplate="%{x:,.4~g}, %{y:,.4~g}<extra></extra>",
        )
    return figure


def pareto(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other beats (more throughput on x, less latency on y), by throughput."""
    best: list[int] = []
    for n in sorted(range(len(points)), key=lambda n: (-points[n].x, points[n].y)):
        if not best or points[n].y < points[best[-1]].y:
            best.append(n)
    return best[::-1]


def heat_map(
    x: Sequence[str],
    y: Sequence[str],
    values: np.ndarray,
    palette: Palette,
    *,
    x_title: str,
    y_title: str,
    unit: str,
    intervals: Mapping[tuple[int, int], tuple[float, float]] | None = None,
) -> go.Figure:
    """A sweep over two settings. ``values``: [y, x], NaN where a combination is missing. ``intervals``: of cells, by
    (row, column).
    """
    figure = new_figure(palette, y_title=y_title, x_title=x_title, height=120 + 56 * len(y))
    around = intervals or {}
    text = [
        [_cell(value, around.get((row, column))) for column, value in enumerate(line)]
        for row, line in enumerate(values)
    ]
    figure.add_heatmap(
        x=[str(v) for v in x],
        y=[str(v) for v in y],
        z=values,
        text=text,
        texttemplate="%{text}",
        colorscale=[[0, faded(palette.accent, 0.15)], [1, palette.accent]],
        colorbar={"title": {"text": unit}},
        hovertemplate=f"{x_title} %{{x}}, {y_title} %{{y}}: %{{z:,.4~g}} {unit}<extra></extra>",
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category")
    return figure


def _cell(value: float, around: tuple[float, float] | None) -> str:
    if not np.isfinite(value):
        return ""
    return number(value) if around is None else f"{number(value)}<br>{number(around[0])} to {number(around[1])}"


def curve(
    values: Sequence[str],
    points: Sequence[Point],
    palette: Palette,
    *,
    x_title: str,
    y_title: str,
    unit: str,
    limit: tuple[float, str] | None = None,
) -> go.Figure:
    """A sweep over one setting. ``points``: one per value, in its order, ``x`` not read; numbers stand where they are,
    words in a row. Of numbers the knee is marked; ``limit``: a line at a value, and what it is.
    """
    figure = new_figure(palette, y_title=f"{y_title}, {unit}" if unit else y_title, x_title=x_title, height=320)
    known = [(value, point) for value, point in zip(values, points, strict=True) if np.isfinite(point.y)]
    if not known:
        return say_nothing_here(figure, "No value has this figure.", palette)
    numbers = _numbers(values)
    if numbers is not None:
        known.sort(key=lambda pair: float(pair[0]))
    bars = [_bars(point.y, point.y_interval) for _, point in known]
    figure.add_scatter(
        x=[float(value) if numbers is not None else value for value, _ in known],
        y=[point.y for _, point in known],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [bar["array"][0] if bar else 0.0 for bar in bars],
            "arrayminus": [bar["arrayminus"][0] if bar else 0.0 for bar in bars],
            "thickness": 1,
        },
        mode="lines+markers",
        line={"color": palette.accent, "width": 2},
        marker={"size": 10},
        customdata=[point.name for _, point in known],
        hovertemplate=f"{x_title} %{{x}}: %{{y:,.4~g}} {unit}<extra></extra>",
    )
    if numbers is not None:
        _mark_knee(figure, [(float(value), point.y) for value, point in known], palette)
    if limit is not None and limit[0] <= FAR * max(point.y for _, point in known):
        figure.add_hline(y=limit[0], line={"color": palette.stall, "width": 1.5, "dash": "dash"})
        _note(figure, limit[1], palette.stall, x=1, y=limit[0], xref="x domain", xanchor="right", yanchor="bottom")
    if numbers is None:
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=list(values))
    elif min(numbers) > 0 and max(numbers) >= LOG_FROM * min(numbers):
        figure.update_xaxes(
            type="log", rangemode="normal", tickvals=sorted(numbers), ticktext=[f"{n:g}" for n in sorted(numbers)]
        )
    return figure


def _mark_knee(figure: go.Figure, points: Sequence[tuple[float, float]], palette: Palette) -> None:
    place = knee([x for x, _ in points], [y for _, y in points])
    if place is None:
        return
    x, y = points[place]
    figure.add_scatter(
        x=[x],
        y=[y],
        mode="markers+text",
        name="knee",
        text=[f"knee: {x:g}"],
        textposition="top center",
        textfont={"color": palette.text, "size": 13},
        marker={"size": 18, "symbol": "circle-open", "color": palette.text, "line": {"width": 2}},
        hovertemplate=f"knee at {x:g}<extra></extra>",
        showlegend=False,
    )


def _note(figure: go.Figure, text: str, colour: str, **where: Any) -> None:
    figure.add_annotation(text=text, font={"color": colour, "size": 13}, showarrow=False, **where)


def _numbers(values: Sequence[str]) -> list[float] | None:
    """The values as numbers, if all of them are."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(np.isfinite(numbers)) else None


def _clickable(colour: str) -> dict[str, Any]:
    """A line whose points can be clicked: Plotly selects markers only, so it has some that are not seen."""
    return {
        "mode": "lines+markers",
        "marker": {"size": 9, "color": INVISIBLE},
        "selected": {"marker": {"color": colour}},
        "unselected": {"marker": {"color": INVISIBLE}},
    }


def _bars(value: float, around: tuple[float, float] | None) -> dict[str, Any]:
    if around is None or around[1] > WIDEST * around[0]:
        return {}
    return {
        "type": "data",
        "symmetric": False,
        "array": [around[1] - value],
        "arrayminus": [value - around[0]],
        "thickness": 1,
    }
