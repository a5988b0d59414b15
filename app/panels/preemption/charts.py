"""Charts of preemption: waiting for copies, copies per swap, their bandwidth, and swap against recompute."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, new_figure, opens, rows, say_nothing_here, stretches
from app.theme import Palette
from store.link_fit import LinkFit
from store.swaps import Costs

NOTHING = "Nothing was swapped."
DIRECTIONS = ("out", "in", "ahead")


def _colours(palette: Palette) -> dict[str, str]:
    return {"out": palette.stall, "in": palette.decode, "ahead": palette.ghost}


def waits(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``compute_ms``, ``wait_ms`` of each stretch."""
    figure = new_figure(palette, y_title="time in steps, ms")
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    kinds = (("computing", "compute_ms", palette.decode), ("waiting", "wait_ms", palette.stall))
    return stretches(figure, table, kinds, "%{y:,.4~g} ms")


def copies(table: Table, palette: Palette, run_id: str = "") -> go.Figure:
    """``table``: of ``store.swaps.swaps_query``."""
    figure = new_figure(palette, y_title="copies of a swap")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    _dots(figure, table, palette, "t", "copies", "%{y:,} copies, %{customdata[1]:,.0f} kB each", run_id)
    figure.update_yaxes(type="log", rangemode="normal")
    return figure


def bandwidth(table: Table, fit: LinkFit | None, palette: Palette, run_id: str = "") -> go.Figure:
    """``table``: likewise."""
    figure = new_figure(palette, y_title="bandwidth, GB/s", x_title="size of a copy, kB")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    words = "%{y:,.3~g} GB/s with %{x:,.3~g} kB a copy"
    _dots(figure, table, palette, "kb_per_copy", "gb_per_s", words, run_id)
    sizes = column(table, "kb_per_copy")
    if fit is not None:
        x = np.geomspace(max(0.1, sizes.min() / 2), sizes.max() * 2, 60)
        y = [fit.bandwidth(1e3 * size) / 1e9 for size in x]
        figure.add_scatter(x=x, y=y, name="fitted", mode="lines", line={"color": palette.text, "width": 2})
    figure.update_xaxes(type="log", rangemode="normal")
    return figure


def pairs(table: Table) -> list[tuple[int, int, float]]:
    """(request, tokens, ms of copying) of each swap out with the swap in that followed it."""
    found, left = [], dict[int, tuple[int, float]]()
    for row in table.to_pylist():
        if row["direction"] == "out":
            left[row["request"]] = (row["tokens"], row["copying_ms"])
        elif row["direction"] == "in" and row["request"] in left:
            tokens, ms = left.pop(row["request"])
            found.append((row["request"], tokens, ms + row["copying_ms"]))
    return found


def crossover(table: Table, costs: Costs | None, palette: Palette, run_id: str = "") -> go.Figure:
    """``table``: of ``store.swaps.swaps_query``."""
    figure = new_figure(palette, y_title="time, ms", x_title="length of the request, tokens")
    measured = pairs(table)
    if not measured:
        return say_nothing_here(figure, "No request was swapped out and in again.", palette)
    figure.add_scatter(
        x=[tokens for _, tokens, _ in measured],
        y=[ms for _, _, ms in measured],
        customdata=[[request] for request, _, _ in measured],
        name="swapped out and in",
        mode="markers",
        marker={"color": palette.kv_used, "size": 7},
        hovertemplate="%{y:,.3~g} ms for %{x:,} tokens<extra>request %{customdata[0]}</extra>",
        meta=opens("request", run_id),
    )
    if costs is not None:
        longest = max(max(tokens for _, tokens, _ in measured), min(8192.0, 1.5 * costs.crossover_tokens()))
        x = np.geomspace(1, 1.1 * longest, 60)
        lines = (
            ("swap, predicted", costs.swap_s, palette.kv_used),
            ("recompute, predicted", costs.recompute_s, palette.prefill),
        )
        for name, cost, colour in lines:
            figure.add_scatter(
                x=x, y=[1e3 * cost(s) for s in x], name=name, mode="lines", line={"color": colour, "width": 2}
            )
    figure.update_yaxes(type="log", rangemode="normal")
    return figure


def spread(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.swaps.spread_query``."""
    figure = new_figure(palette, y_title="time per output token, ms", x_title="session, lowest first")
    values = np.sort(column(table, "tpot_ms")[~np.isnan(column(table, "tpot_ms"))])
    if not values.size:
        return say_nothing_here(figure, "No session completed a request of two tokens or more.", palette)
    figure.add_bar(
        x=np.arange(1, values.size + 1),
        y=values,
        marker={"color": palette.decode, "line": {"width": 0}},
        hovertemplate="%{y:,.4~g} ms<extra></extra>",
    )
    return figure


def _dots(figure: go.Figure, table: Table, palette: Palette, x: str, y: str, words: str, run_id: str) -> None:
    """A dot for each swap, by direction; a click opens its request."""
    colours = _colours(palette)
    kinds = np.asarray(table["direction"].to_pylist())
    for name in DIRECTIONS:
        here = kinds == name
        if not here.any():
            continue
        figure.add_scatter(
            x=column(table, x)[here],
            y=column(table, y)[here],
            customdata=np.stack([column(table, "request")[here], column(table, "kb_per_copy")[here]], axis=1),
            name=name,
            mode="markers",
            marker={"color": colours[name], "size": 6},
            hovertemplate=f"{words}<extra>{name}, request %{{customdata[0]}}</extra>",
            meta=opens("request", run_id),
        )
