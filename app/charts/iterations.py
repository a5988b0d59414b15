"""Iterations on the time axis: how long each took and on what, and which tokens it computed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, new_figure, opens, rows, say_nothing_here
from app.theme import Palette

KINDS = {"prefill": "prefill only", "mixed": "mixed", "decode": "decode only", "idle": "neither"}
CAPS = ("schedule", "prepare", "sample", "finish")
MOST_BARS = 1500  # more bars than this are narrower than a pixel and slow the browser down


def iteration_timeline(table: Table, palette: Palette) -> go.Figure:
    """Every iteration as a bar: as wide as it took on the time axis, as high as it took in ms, split by step.

    ``table``: ``t`` (end, s), ``iteration``, ``duration_ms``, ``forward_ms``, ``schedule_ms``, ``prepare_ms``,
    ``sample_ms``, ``finish_ms``, ``prefill_tokens``, ``decode_tokens``. Of more than ``MOST_BARS`` rows the longest of
    every stretch is drawn.
    """
    figure = new_figure(palette, y_title="duration, ms", height=340)
    figure.update_layout(barmode="stack", bargap=0)
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    shown = tallest(column(table, "duration_ms"), MOST_BARS)
    t, duration, prefill, decode, number = (
        column(table, name)[shown] for name in ("t", "duration_ms", "prefill_tokens", "decode_tokens", "iteration")
    )
    width = duration / 1000
    middle = t - width / 2
    about = np.stack([number, duration, prefill, decode], axis=-1)
    hover = (
        "iteration %{customdata[0]:d}, %{customdata[1]:,.1f} ms<br>%{customdata[2]:d} prompt + %{customdata[3]:d} "
        "decode tokens<br>%{y:,.2f} ms"
    )
    kinds = kind_of(prefill, decode)
    forward = column(table, "forward_ms")[shown]
    for kind, name in KINDS.items():
        mask = kinds == kind
        if not mask.any():
            continue
        figure.add_bar(
            x=middle[mask],
            y=forward[mask],
            width=width[mask] * 0.92,
            name=name,
            marker={"color": getattr(palette, kind, palette.muted), "line": {"width": 0}},
            customdata=about[mask],
            meta=opens("iteration"),
            hovertemplate=hover + " forward<extra>" + name + "</extra>",
        )
    for step in CAPS:
        figure.add_bar(
            x=middle,
            y=column(table, f"{step}_ms")[shown],
            width=width * 0.92,
            name=step,
            marker={"color": getattr(palette, step), "line": {"width": 0}},
            customdata=about,
            meta=opens("iteration"),
            hovertemplate=hover + f" {step}<extra>{step}</extra>",
        )
    return figure


def batch_makeup(table: Table, palette: Palette) -> go.Figure:
    """Tokens each iteration computed, decode below, prompt tokens on top, and the token budget.

    ``table``: ``t``, ``iteration``, ``duration_ms``, ``prefill_tokens``, ``decode_tokens``, ``token_budget`` (NaN:
    none).
    """
    figure = new_figure(palette, y_title="in the iteration, tokens")
    figure.update_layout(barmode="stack", bargap=0)
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    shown = tallest(column(table, "prefill_tokens") + column(table, "decode_tokens"), MOST_BARS)
    t, width = column(table, "t")[shown], column(table, "duration_ms")[shown] / 1000
    number = column(table, "iteration")[shown]
    for kind, name in (("decode", "decode tokens"), ("prefill", "prompt tokens")):
        figure.add_bar(
            x=t - width / 2,
            y=column(table, f"{kind}_tokens")[shown],
            width=width * 0.92,
            name=name,
            marker={"color": getattr(palette, kind), "line": {"width": 0}},
            customdata=number,
            meta=opens("iteration"),
            hovertemplate="iteration %{customdata:d}: %{y:d} " + name + "<extra></extra>",
        )
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
    return figure


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
