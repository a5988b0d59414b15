"""Iterations on the time axis: how long each took and on what, and which tokens it computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import TALL, Table, column, new_figure, opens, rows, say_nothing_here
from app.theme import Palette

KINDS = {"prefill": "prefill only", "mixed": "mixed", "decode": "decode only", "idle": "neither"}
CAPS = ("schedule", "prepare", "sample", "finish")
MOST_BARS = 1000  # more are narrower than a pixel, and slow the browser down


def iteration_timeline(table: Table, palette: Palette) -> go.Figure:
    """Every iteration as a bar: as wide as it took on the time axis, as high as it took in ms, split by step.

    ``table``: ``t`` (end, s), ``iteration``, ``duration_ms``, ``forward_ms``, ``schedule_ms``, ``prepare_ms``,
    ``sample_ms``, ``finish_ms``, ``prefill_tokens``, ``decode_tokens``. Of more than ``MOST_BARS`` rows the longest of
    every stretch is drawn.
    """
    figure = new_figure(palette, y_title="duration, ms", height=TALL)
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    bars = _Bars.of(table, tallest(column(table, "duration_ms"), MOST_BARS))
    kinds = kind_of(bars.column("prefill_tokens"), bars.column("decode_tokens"))
    forward = bars.column("forward_ms")
    steps = np.cumsum([forward, *(np.nan_to_num(bars.column(f"{cap}_ms")) for cap in CAPS)], axis=0)
    for place, (cap, top) in reversed(list(enumerate(zip(CAPS, steps[1:], strict=True), start=len(KINDS)))):
        figure.add_trace(bars.shape(top, cap, getattr(palette, cap), place))
    for place, (kind, name) in enumerate(KINDS.items()):
        if (kinds == kind).any():
            figure.add_trace(bars.shape(forward, name, getattr(palette, kind, palette.muted), place, kinds == kind))
    about = [
        "iteration",
        "duration_ms",
        "prefill_tokens",
        "decode_tokens",
        "forward_ms",
        *(f"{cap}_ms" for cap in CAPS),
    ]
    each = ", ".join(f"{cap} %{{customdata[{place}]:,.2f}}" for place, cap in enumerate(("forward", *CAPS), start=4))
    hover = (
        "iteration %{customdata[0]:d}, %{customdata[1]:,.1f} ms<br>%{customdata[2]:d} prompt + %{customdata[3]:d} "
        f"decode tokens<br>ms: {each}<extra>%{{text}}</extra>"
    )
    names = [KINDS[kind] for kind in kinds]
    return _under_the_pointer(figure, bars.marks(bars.column("duration_ms"), about, hover, palette.text, names))


def batch_makeup(table: Table, palette: Palette) -> go.Figure:
    """Tokens each iteration computed, decode below, prompt tokens on top, and the token budget.

    ``table``: ``t``, ``iteration``, ``duration_ms``, ``prefill_tokens``, ``decode_tokens``, ``token_budget`` (NaN:
    none).
    """
    figure = new_figure(palette, y_title="in the iteration, tokens")
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    tokens = column(table, "prefill_tokens") + column(table, "decode_tokens")
    bars = _Bars.of(table, tallest(tokens, MOST_BARS))
    decode, whole = bars.column("decode_tokens"), bars.column("decode_tokens") + bars.column("prefill_tokens")
    figure.add_trace(bars.shape(whole, "prompt tokens", palette.prefill, 1, whole > decode))
    figure.add_trace(bars.shape(decode, "decode tokens", palette.decode, 0, decode > 0))
    budget = column(table, "token_budget")
    if np.isfinite(budget).any():
        figure.add_scatter(
            x=column(table, "t"),
            y=budget,
            name="token budget",
            mode="lines",
            line={"color": palette.text, "width": 1.5, "dash": "dash", "shape": "hv"},
            hovertemplate="%{y:d} tokens<extra>budget</extra>",
        )
    hover = (
        "iteration %{customdata[0]:d}<br>%{customdata[1]:d} prompt + %{customdata[2]:d} decode tokens<extra></extra>"
    )
    return _under_the_pointer(
        figure, bars.marks(whole, ["iteration", "prefill_tokens", "decode_tokens"], hover, palette.text)
    )


@dataclass(frozen=True)
class _Bars:
    """Iterations as bars over their time: those of the rows ``shown``."""

    table: Table
    shown: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, table: Table, shown: np.ndarray) -> _Bars:
        end, width = column(table, "t")[shown], column(table, "duration_ms")[shown] / 1000
        return cls(table, shown, end - 0.96 * width, end - 0.04 * width)

    def column(self, name: str) -> np.ndarray:
        return column(self.table, name)[self.shown]

    def shape(self, top: np.ndarray, name: str, colour: str, place: int, mask: np.ndarray | None = None) -> go.Scatter:
        """All bars (those of ``mask``) from zero to ``top`` as one outline, which a browser draws as fast as one bar.
        Stacked ones are drawn from the highest to the lowest, each over the one before; ``place``: in the legend.
        """
        kept = np.isfinite(top) if mask is None else mask & np.isfinite(top)
        zero = np.zeros(len(top))
        x = np.stack([self.left, self.left, self.right, self.right], axis=-1)[kept]
        y = np.stack([zero, top, top, zero], axis=-1)[kept].astype(np.float32)
        return go.Scatter(
            x=x.ravel(),
            y=y.ravel(),
            name=name,
            mode="lines",
            line={"width": 0, "color": colour},
            fill="tozeroy",
            fillcolor=colour,
            legendrank=1000 + place,
            hoverinfo="skip",
        )

    def marks(
        self, top: np.ndarray, about: Sequence[str], hover: str, colour: str, text: Sequence[str] | None = None
    ) -> go.Scatter:
        """What a hover over a bar tells and a click on it opens: both its edges, unseen, so that wherever the pointer
        is within a bar one of them is the nearest.
        """
        told = np.stack([self.column(name) for name in about], axis=-1).astype(np.float32)
        return go.Scatter(
            x=np.stack([self.left, self.right], axis=-1).ravel(),
            y=np.repeat(top, 2),
            mode="lines",
            line={"width": 0, "color": colour},
            showlegend=False,
            customdata=np.repeat(told, 2, axis=0),
            text=None if text is None else np.repeat(text, 2),
            meta=opens("iteration") | {"bar": True},
            hovertemplate=hover,
        )


def _under_the_pointer(figure: go.Figure, marks: go.Scatter) -> go.Figure:
    """Hover and clicks go to the iteration at the pointer's time, whatever its height."""
    figure.add_trace(marks)
    return figure.update_layout(hovermode="x", hoverdistance=-1)


def kind_of(prefill: np.ndarray, decode: np.ndarray) -> np.ndarray:
    """``prefill``, ``mixed``, ``decode`` or ``idle`` for each iteration [rows]."""
    conditions = [(prefill > 0) & (decode > 0), prefill > 0, decode > 0]
    return np.select(conditions, ["mixed", "prefill", "decode"], default="idle")


def tallest(heights: np.ndarray, most: int) -> np.ndarray:
    """Indices [at most ``most``] of the highest value in every stretch of equally many rows, in order: no spike is
    lost.
    """
    count = len(heights)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, most + 1).astype(int)
    filled = np.where(np.isfinite(heights), heights, -np.inf)
    return np.array([low + int(np.argmax(filled[low:high])) for low, high in pairwise(edges)])
