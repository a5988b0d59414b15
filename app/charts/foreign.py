"""Charts of an engine that is watched: states and rates as it tells them, and forward passes that it publishes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, faded, new_figure, rows, say_nothing_here, step_line
from app.theme import Palette

NOT_TOLD = "The engine tells none of these."


def requests_in_engine(running: Table, waiting: Table, palette: Palette) -> go.Figure:
    """Each table: ``t`` (s), ``value`` (requests)."""
    lines = {"running": (running, palette.running), "waiting": (waiting, palette.waiting)}
    figure = new_figure(palette, y_title="in the engine, requests")
    for name, (table, colour) in lines.items():
        if rows(table):
            figure.add_trace(step_line(column(table, "t"), column(table, "value"), name, colour, unit="requests"))
    return _finished(figure, palette)


def tokens_per_second(series: Mapping[str, Table], palette: Palette) -> go.Figure:
    """``series``: name in the legend -> ``t`` (s), ``per_s`` (tokens/s)."""
    figure = new_figure(palette, y_title="computed, tokens/s")
    colours = (palette.prefill, palette.decode, palette.kv_cached)
    dashes = ("solid", "dash", "dot")
    for (name, table), colour, dash in zip(series.items(), colours, dashes, strict=False):
        if rows(table):
            line = step_line(column(table, "t"), column(table, "per_s"), name, colour, unit="tokens/s", dash=dash)
            line.line.shape = "vh"  # a rate is of the stretch before it
            figure.add_trace(line)
    return _finished(figure, palette)


def cache_use(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``value`` (share of the pool)."""
    figure = new_figure(palette, y_title="KV pool in use, %")
    if rows(table):
        used = step_line(
            column(table, "t"), 100 * column(table, "value"), "in use", palette.kv_used, unit="%",
            fill=faded(palette.kv_used, 0.4),
        )  # fmt: skip
        figure.add_trace(used)
    return _finished(figure, palette)


def forward_passes(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``forward_ms``, ``prefill_tokens``, ``decode_requests``."""
    figure = new_figure(palette, y_title="forward pass, ms")
    if rows(table):
        t, took = column(table, "t"), column(table, "forward_ms")
        prompt = np.nan_to_num(column(table, "prefill_tokens"))
        decodes = np.nan_to_num(column(table, "decode_requests"))
        for name, chosen, colour, symbol in (
            ("with prompt tokens", prompt > 0, palette.prefill, "diamond"),
            ("decode only", prompt == 0, palette.decode, "circle"),
        ):
            if chosen.any():
                figure.add_scatter(
                    x=t[chosen], y=took[chosen], name=name, mode="markers",
                    marker={"color": colour, "size": 6, "symbol": symbol},
                    customdata=np.stack([prompt[chosen], decodes[chosen]], axis=1),
                    hovertemplate="%{y:,.4~g} ms, %{customdata[0]:,d} prompt tokens, "
                    f"%{{customdata[1]:,d}} decoding<extra>{name}</extra>",
                )  # fmt: skip
    return _finished(figure, palette)


def latencies_of_requests(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s, arrival), ``ttft_ms``, ``e2e_ms``, ``prompt_tokens``, ``output_tokens``."""
    figure = new_figure(palette, y_title="since arrival, ms")
    if rows(table):
        tokens = np.stack([column(table, "prompt_tokens"), column(table, "output_tokens")], axis=1)
        for name, of, colour, symbol in (
            ("TTFT", "ttft_ms", palette.prefill, "diamond"),
            ("E2E", "e2e_ms", palette.decode, "circle"),
        ):
            figure.add_scatter(
                x=column(table, "t"), y=column(table, of), name=name, mode="markers",
                marker={"color": colour, "size": 6, "symbol": symbol}, customdata=tokens,
                hovertemplate="%{y:,.4~g} ms, prompt of %{customdata[0]:,d} tokens, %{customdata[1]:,d} answered"
                f"<extra>{name}</extra>",
            )  # fmt: skip
        figure.update_yaxes(type="log")
    figure.update_layout(showlegend=True)
    return figure if figure.data else say_nothing_here(figure, NOT_TOLD, palette)


def _finished(figure: go.Figure, palette: Palette) -> go.Figure:
    figure.update_layout(hovermode="x unified", showlegend=True)
    return figure if figure.data else say_nothing_here(figure, NOT_TOLD, palette)
