"""What speculative decoding did: acceptance, accepted lengths, chosen lengths, predicted times and what it brought."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, new_figure, rows, say_nothing_here, step_line
from app.theme import Palette

NOTHING = "Nothing was verified."


def acceptance_by_position(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``place``, ``acceptance``, ``tested``."""
    figure = new_figure(palette, y_title="acceptance rate, %", x_title="position of the draft token")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    figure.add_bar(
        x=column(table, "place"),
        y=column(table, "acceptance"),
        marker={"color": palette.draft, "line": {"width": 0}},
        customdata=column(table, "tested"),
        hovertemplate="%{y:.1%} of %{customdata:,d} tested<extra>position %{x:d}</extra>",
    )
    figure.update_yaxes(tickformat=".0%", range=[0, 1])
    figure.update_xaxes(dtick=1, range=[0.4, max(4, float(column(table, "place").max())) + 0.6])
    return figure


def accepted_lengths(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``accepted``, ``verifications``, ``whole`` (those that accepted all they guessed)."""
    figure = new_figure(palette, y_title="verifications", x_title="draft tokens accepted")
    figure.update_layout(barmode="stack")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    accepted, whole = column(table, "accepted"), column(table, "whole")
    for name, values, colour in (
        ("all accepted", whole, palette.draft),
        ("up to a rejected one", column(table, "verifications") - whole, palette.ghost),
    ):
        figure.add_bar(
            x=accepted,
            y=values,
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{y:,d} with %{x:d} accepted<extra>" + name + "</extra>",
        )
    figure.update_xaxes(dtick=1, range=[-0.6, max(4, float(accepted.max())) + 0.6])
    return figure


def acceptance_over_time(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``acceptance``, ``tokens_per_pass``, ``guesses``."""
    figure = new_figure(palette, y_title="per request and pass, tokens or share")
    if not rows(table):
        return say_nothing_here(figure, NOTHING, palette)
    t = column(table, "t")
    for name, label, colour, dash in (
        ("tokens_per_pass", "tokens per pass", palette.decode, "solid"),
        ("guesses", "draft tokens", palette.draft, "dash"),
        ("acceptance", "share accepted", palette.good, "dot"),
    ):
        figure.add_trace(step_line(t, column(table, name), label, colour, unit="", dash=dash))
    figure.update_layout(hovermode="x unified")
    return figure


def chosen_lengths(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``batch``, ``guesses`` (mean per request), ``steps``, ``verifies``; all steps of a batch size
    count.
    """
    figure = new_figure(palette, y_title="draft tokens per request", x_title="requests in the step")
    if not rows(table):
        return say_nothing_here(figure, "No step without prompt work was recorded.", palette)
    batch, steps = column(table, "batch"), column(table, "steps")
    guesses = np.nan_to_num(column(table, "guesses"))
    sizes = np.unique(batch)
    mean = np.array([np.average(guesses[batch == size], weights=steps[batch == size]) for size in sizes])
    count = np.array([steps[batch == size].sum() for size in sizes])
    figure.add_scatter(
        x=sizes,
        y=mean,
        mode="lines+markers",
        line={"color": palette.draft, "width": 2},
        marker={"size": 9},
        customdata=count,
        hovertemplate="%{y:.2f} draft tokens each in %{customdata:,d} steps<extra>%{x:d} requests</extra>",
    )
    return figure


def predicted_times(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``predicted_ms``, ``measured_ms``, ``batch``, ``guesses``."""
    figure = new_figure(palette, y_title="measured, ms", x_title="predicted, ms", height=300)
    if not rows(table):
        return say_nothing_here(figure, "No step time was predicted: the length was fixed.", palette)
    predicted, measured = column(table, "predicted_ms"), column(table, "measured_ms")
    guessed = column(table, "guesses") > 0
    end = float(np.nanpercentile(np.concatenate([predicted, measured]), 99)) * 1.1
    for mask, name, colour in (
        (~guessed, "plain step", palette.decode),
        (guessed, "verifying step", palette.draft),
    ):
        figure.add_scatter(
            x=predicted[mask],
            y=measured[mask],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 6, "opacity": 0.7, "symbol": "diamond" if name[0] == "v" else "circle"},
            customdata=np.stack([column(table, "batch")[mask], column(table, "guesses")[mask]], -1),
            hovertemplate="%{y:,.1f} ms, predicted %{x:,.1f}<br>%{customdata[0]:d} requests, %{customdata[1]:d} "
            "draft tokens<extra></extra>",
        )
    figure.add_scatter(
        x=[0, end], y=[0, end], mode="lines", name="equal", line={"color": palette.muted, "dash": "dash", "width": 1.5}
    )
    figure.update_xaxes(range=[0, end])
    figure.update_yaxes(range=[0, end])
    return figure


def speed_by_batch(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``batch``, ``verifies``, ``tokens_per_s``, ``step_ms``, ``tokens_per_pass``, ``steps``."""
    figure = new_figure(palette, y_title="output, tokens/s", x_title="requests in the step")
    if not rows(table):
        return say_nothing_here(figure, "No step without prompt work was recorded.", palette)
    verifies = column(table, "verifies") > 0
    for mask, name, colour, symbol in (
        (~verifies, "plain steps", palette.decode, "circle"),
        (verifies, "verifying steps", palette.draft, "diamond"),
    ):
        if not mask.any():
            continue
        about = np.stack([column(table, name)[mask] for name in ("step_ms", "tokens_per_pass", "steps")], -1)
        figure.add_scatter(
            x=column(table, "batch")[mask],
            y=column(table, "tokens_per_s")[mask],
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2},
            marker={"size": 9, "symbol": symbol},
            customdata=about,
            hovertemplate="%{y:,.1f} tokens/s<br>%{customdata[0]:,.1f} ms a step, "
            "%{customdata[1]:.2f} tokens per request, %{customdata[2]:,d} steps<extra>" + name + "</extra>",
        )
    return figure
