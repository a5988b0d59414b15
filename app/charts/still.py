"""A figure as a picture: what a reader sees until Plotly, which a browser takes most of a second to load and to begin
with, draws the chart itself.

The picture is made of the figure, so both show the same rows in the same colours on the same axes. Marks are drawn as
one SVG image that is as wide as its place; axes, legend and titles are text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from urllib.parse import quote

import numpy as np
import plotly.graph_objects as go

WIDE, HIGH = 8000, 1000
"""Units of the image: a pixel of a wide window is about eight."""
TICKS = {"wide": 10, "narrow": 5}
"""At most so many marks on the time axis (Plotly's own numbers for a wide and a narrow chart)."""
MINIMUM_BETWEEN = 40
"""Pixels between two marks on the vertical axis, at least."""
HEADROOM = 0.05
"""Share of the vertical axis above the highest mark, as Plotly leaves it."""
DASHES = {"dash": "9 9", "dot": "3 3", "solid": ""}


def still(figure: go.Figure, alt: str) -> str:
    """The figure as HTML of its own height. ``alt``: the picture in words.

    It can draw lines and areas (``go.Scatter`` with ``mode="lines"``) on two linear axes that begin at 0; the
    horizontal one has a ``range``. Marks that are there for the pointer only (no line, no area) are left out.

    Raises:
        ValueError: the figure has another kind of trace.
    """
    layout = figure.layout
    margin = layout.margin
    traces = list(_drawn(figure))
    end = float(layout.xaxis.range[1])
    top = _top(figure)
    plot_height = layout.height - margin.t - margin.b
    upright = "".join(_mark("y", at, top) for at in marks(top, plot_height / MINIMUM_BETWEEN + 1))
    along = "".join(
        f'<div class="lab-still-{width}">{"".join(_mark("x", at, end) for at in marks(end, most))}</div>'
        for width, most in TICKS.items()
    )
    image = quote(_image([_path(trace, end, top) for trace in traces]), safe=" =:/,;-.'()")
    room = f"height:{layout.height}px;padding:0 {margin.r}px {margin.b}px {margin.l}px"
    return (
        f'<div class="lab-still"><div class="lab-still-figure" style="{room}">'
        f'<div class="lab-still-legend" style="min-height:{margin.t}px">{"".join(_legend(figure))}</div>'
        f'<div class="lab-still-plot">{upright}{along}'
        f'<img alt="{escape(alt)}" src="data:image/svg+xml,{image}">'
        f'<div class="lab-still-x">{escape(layout.xaxis.title.text)}</div>'
        f'<div class="lab-still-y">{escape(layout.yaxis.title.text)}</div></div></div></div>'
    )


def marks(end: float, most: float) -> list[float]:
    """Round numbers from 0 to ``end``, about ``most`` of them at most: 1, 2 or 5 times a power of ten apart, or that
    step which comes next above ``end / most``.
    """
    if not (end > 0 and math.isfinite(end)):
        return [0.0]
    rough = end / most
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * times for times in (2, 5, 10) if base * times >= rough)
    return [round(step * n, 10) for n in range(math.floor(end / step * (1 + 1e-9)) + 1)]


def outline(trace: go.Scatter) -> tuple[np.ndarray, np.ndarray]:
    """A trace's corners: x and y, float64 [points]; one that holds each value until the next gets a corner there."""
    x, y = (np.asarray(values, dtype=np.float64) for values in (trace.x, trace.y))
    if trace.line.shape != "hv" or len(x) < 2:
        return x, y
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


def _drawn(figure: go.Figure) -> Iterator[go.Scatter]:
    for trace in figure.data:
        if not isinstance(trace, go.Scatter) or trace.mode != "lines":
            raise ValueError(f"a picture is made of lines and areas, not of {trace.type} {trace.name!r}")
        if trace.fill or trace.line.width:
            yield trace


def _top(figure: go.Figure) -> float:
    """The end of the vertical axis, from all traces as Plotly takes it."""
    highest = [np.nanmax(y) for y in (outline(trace)[1] for trace in figure.data) if np.isfinite(y).any()]
    return float(max(highest, default=0.0)) / (1 - HEADROOM) or 1.0


def _path(trace: go.Scatter, end: float, top: float) -> str:
    """A trace as an SVG path, in steps from corner to corner; a gap where a value is missing."""
    x, y = outline(trace)
    fine = np.isfinite(x) & np.isfinite(y)
    across, down = np.zeros(len(x), dtype=np.int64), np.zeros(len(x), dtype=np.int64)
    across[fine] = np.rint(x[fine] / end * WIDE).astype(np.int64)
    down[fine] = np.rint(HIGH - y[fine] / top * HIGH).astype(np.int64)
    parts, pen = [], None
    for here, there, known in zip(across.tolist(), down.tolist(), fine.tolist(), strict=True):
        if not known:
            pen = None
        elif pen is None:
            parts.append(f"M{here} {there}")
        else:
            right, below = here - pen[0], there - pen[1]
            if right or below:
                parts.append(f"h{right}" if not below else f"v{below}" if not right else f"l{right} {below}")
        pen = (here, there) if known else None
    drawn = "".join(parts)
    if trace.fill:
        return f"<path d='{drawn}' fill='{trace.fillcolor}'/>"
    dash = DASHES.get(trace.line.dash or "solid", "9 9")
    return (
        f"<path d='{drawn}' fill='none' stroke='{trace.line.color}' stroke-width='{trace.line.width}' "
        f"vector-effect='non-scaling-stroke' stroke-dasharray='{dash}'/>"
    )


def _image(paths: list[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDE} {HIGH}' preserveAspectRatio='none'>"
        f"{''.join(paths)}</svg>"
    )


def _mark(axis: str, at: float, end: float) -> str:
    """A grid line with its number."""
    side = "left" if axis == "x" else "bottom"
    return f'<i class="lab-still-{axis}-mark" style="{side}:{100 * at / end:.3f}%"><b>{at:,.6g}</b></i>'


def _legend(figure: go.Figure) -> Iterator[str]:
    shown = [trace for trace in figure.data if trace.showlegend is not False]
    for trace in sorted(shown, key=lambda one: one.legendrank or 1000):
        line = "" if trace.fill else " class='lab-still-line'"
        yield f"<span><i{line} style='background:{trace.fillcolor or trace.line.color}'></i>{escape(trace.name)}</span>"
