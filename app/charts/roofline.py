"""The roofline: each iteration's arithmetic per byte against the rate it reached, below what the device was measured to
do.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import TALL, Table, column, new_figure, opens, rows, say_nothing_here
from app.charts.iterations import KINDS, kind_of
from app.theme import Palette
from store.step_cost import StepCost


def roofline(
    table: Table, peaks: Mapping[str, float] | None, palette: Palette, *, shown: StepCost | None = None
) -> go.Figure:
    """Modelled FLOP per byte against modelled FLOP over forward time, on logarithmic axes.

    Args:
        table: ``flops``, ``bytes`` (modelled least of the batch), ``forward_ms``, ``prefill_tokens``,
            ``decode_tokens``, ``iteration``.
        peaks: the device's measured ``flops_per_s`` and ``bytes_per_s``; None draws no roof.
        palette: colours.
        shown: a step that stands out among the others.
    """
    figure = new_figure(palette, y_title="rate, TFLOP/s", x_title="arithmetic per byte moved, FLOP/byte", height=TALL)
    figure.update_xaxes(type="log", rangemode="normal")
    figure.update_yaxes(type="log", rangemode="normal")
    flops, moved, forward_ms = (column(table, name) for name in ("flops", "bytes", "forward_ms"))
    usable = np.isfinite(flops * moved * forward_ms) & (flops > 0) & (moved > 0) & (forward_ms > 0)
    if not rows(table) or not usable.any():
        return say_nothing_here(figure, "No iteration with modelled work was recorded.", palette)
    intensity = flops[usable] / moved[usable]
    rate = flops[usable] / forward_ms[usable] / 1e9  # FLOP per ms / 1e9 = TFLOP/s
    kinds = kind_of(column(table, "prefill_tokens")[usable], column(table, "decode_tokens")[usable])
    share = np.full(len(rate), np.nan)
    if peaks:
        share = rate / roof(intensity, peaks)
        x = np.geomspace(min(intensity.min(), balance(peaks)) / 2, max(intensity.max(), balance(peaks)) * 4, 64)
        figure.add_scatter(
            x=x,
            y=roof(x, peaks),
            name="measured limit",
            mode="lines",
            line={"color": palette.text, "width": 1.5, "dash": "dash"},
            hovertemplate="%{y:,.4~g} TFLOP/s at %{x:,.3~g} FLOP/byte<extra>measured limit</extra>",
        )
    about = np.stack([column(table, "iteration")[usable], share * 100], axis=-1)
    for kind, name in KINDS.items():
        mask = kinds == kind
        if mask.any():
            figure.add_scatter(
                x=intensity[mask],
                y=rate[mask],
                name=name,
                mode="markers",
                marker={"color": getattr(palette, kind, palette.muted), "size": 6, "opacity": 0.7},
                customdata=about[mask],
                meta=opens("iteration"),
                hovertemplate="iteration %{customdata[0]:d}: %{y:,.4~g} TFLOP/s at %{x:,.3~g} FLOP/byte<br>"
                "%{customdata[1]:.0f} % of the limit<extra>" + name + "</extra>",
            )
    if shown is not None and shown.forward_ms > 0:
        _mark(figure, shown, palette)
    return figure


def _mark(figure: go.Figure, step: StepCost, palette: Palette) -> None:
    figure.add_scatter(
        x=[step.intensity],
        y=[step.flops / step.forward_ms / 1e9],
        name=f"step {step.iteration}",
        mode="markers",
        marker={"symbol": "circle-open", "size": 18, "color": palette.text, "line": {"width": 3}},
        hovertemplate="%{y:,.4~g} TFLOP/s at %{x:,.3~g} FLOP/byte<extra>this step</extra>",
    )


def balance(peaks: Mapping[str, float]) -> float:
    """FLOP per byte where the two limits meet."""
    return peaks["flops_per_s"] / peaks["bytes_per_s"]


def roof(intensity: np.ndarray, peaks: Mapping[str, float]) -> np.ndarray:
    """The most TFLOP/s at these FLOP per byte: memory's slope up to the balance, arithmetic's ceiling from there on."""
    return np.minimum(intensity * peaks["bytes_per_s"], peaks["flops_per_s"]) / 1e12
