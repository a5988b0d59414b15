"""Runs of the same requests with different codecs of the KV cache: against full precision, over context, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.charts.comparison import room_for_names, variant_style
from app.charts.frame import Table, column, faded, new_figure, rows, say_nothing_here
from app.charts.pool import preemption_marks
from app.panels.kv_quantization.crossover import Crossover
from app.theme import Palette

FIGURES = {
    "capacity_tokens": "KV capacity",
    "most_running": "most in flight",
    "output_tokens_per_s": "output tokens/s",
    "decode_step_ms": "decode step p50",
    "perplexity_ratio": "perplexity",
}
"""Figures that are shown as multiples of full precision's."""
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def against_full(sides: Sequence[Mapping[str, Any]], full: Mapping[str, Any], palette: Palette) -> go.Figure:
    """Each codec's figures (rows as ``app.panels.kv_quantization.codec_runs.Side.row`` gives them) as multiples of full
    precision's, on a log scale.
    """
    figure = new_figure(palette, y_title="", x_title="against full precision, times", height=310)
    low, high = 0.8, 1.25
    for index, side in enumerate(sides):
        x: list[float] = []
        y: list[str] = []
        for name, title in FIGURES.items():
            if side.get(name) and full.get(name):
                x.append(side[name] / full[name])
                y.append(title)
        colour, _, marker = variant_style(index, palette)
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=str(side["codec"]),
            marker={"color": colour, "size": 12, "symbol": marker},
            hovertemplate="%{y}: %{x:.3f} times<extra>%{fullData.name}</extra>",
        )
        low, high = min([low, *x]), max([high, *x])
    figure.add_vline(x=1, line={"color": palette.muted, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(**_times(low, high), tickangle=0)
    figure.update_yaxes(categoryorder="array", categoryarray=list(FIGURES.values())[::-1], type="category")
    return figure


def crossover(crossings: Sequence[Crossover], styles: Mapping[str, int], palette: Palette) -> go.Figure:
    """Step time with each codec as a multiple of full precision's, by context: measured as marks, modelled as dashed
    lines.

    ``styles``: the place of each codec, so that it looks the same in every chart.
    """
    figure = new_figure(
        palette, y_title="step time against full precision, times", x_title="context in a step, tokens", height=330
    )
    low, high, drawn = 0.8, 1.25, False
    for side in crossings:
        name, ratios, model = side.name, side.measured, side.modelled
        if not len(ratios.ratio):
            continue
        colour, _, marker = variant_style(styles[name], palette)
        figure.add_scatter(
            x=ratios.context,
            y=ratios.ratio,
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9, "symbol": marker},
            customdata=np.stack([ratios.plain_ms, ratios.steps], -1),
            hovertemplate="%{y:.2f} times the %{customdata[0]:,.1f} ms of full precision at %{x:,.0f} tokens<br>"
            "%{customdata[1]:,d} steps<extra>" + name + "</extra>",
        )
        low, high = min(low, float(ratios.ratio.min())), max(high, float(ratios.ratio.max()))
        if model is not None:
            figure.add_scatter(
                x=ratios.context,
                y=model.step_ratio(ratios.plain_ms, ratios.context),
                mode="lines",
                name=f"{name}, modelled",
                showlegend=False,
                line={"color": colour, "width": 1.75, "dash": "dash"},
                hovertemplate="%{y:.2f} times<extra>" + name + ", modelled</extra>",
            )
        drawn = True
    if not drawn:
        return say_nothing_here(figure, "No steps of the same size and context on both sides.", palette)
    if any(side.modelled is not None for side in crossings):
        modelled = {"color": palette.muted, "width": 1.75, "dash": "dash"}
        figure.add_scatter(x=[None], y=[None], mode="lines", name="modelled", line=modelled, hoverinfo="skip")
    figure.add_hline(y=1, line={"color": palette.text, "width": 1.5})
    figure.add_annotation(
        text="equal",
        x=1,
        y=0,  # of a log axis: the logarithm
        xref="x domain",
        yref="y",
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        font={"color": palette.muted},
    )
    figure.update_yaxes(**_times(low, high))
    room_for_names(figure, len(crossings) + 1)
    return figure


def pools(table: Table, names: Mapping[str, str], block_size: int, palette: Palette) -> go.Figure:
    """The pool of each run over time, one strip per codec, in tokens; a mark wherever somebody was preempted.

    ``table``: ``run_id``, ``t`` (s), ``blocks_used``, ``blocks_total``, ``preempted``; ``names``: codec by run, in
    order.
    """
    figure = new_figure(palette, y_title="", height=80 + 150 * max(1, len(names)))
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    runs = np.asarray(table["run_id"].to_pylist() if hasattr(table["run_id"], "to_pylist") else table["run_id"])
    columns = {name: column(table, name) for name in ("t", "blocks_used", "blocks_total", "preempted")}
    axis, named = figure.layout.yaxis.to_plotly_json(), False
    for index, (run_id, name) in enumerate(names.items()):
        mine = np.flatnonzero(runs == run_id)
        if len(mine):
            own = {key: values[mine] for key, values in columns.items()}
            named |= _pool(figure, _Strip(index, len(names), name, axis), own, block_size, palette, named=not named)
    figure.update_xaxes(anchor="free", position=0)
    figure.update_layout(legend={"y": 1.0})
    return figure


@dataclass(frozen=True)
class _Strip:
    """The place of one run's pool in the figure, counted from the top."""

    index: int
    count: int
    name: str
    axis: dict[str, Any]  # how every strip's axis looks

    @property
    def number(self) -> str:
        return "" if self.index == 0 else str(self.index + 1)

    @property
    def top(self) -> float:
        return 1 - self.index / self.count

    def layout(self, size: float) -> dict[str, Any]:
        share = 1 / self.count
        bottom = self.top - share * (0.7 if self.count > 1 else 0.9)
        place = {"domain": [max(0.0, bottom), self.top - share * 0.12], "range": [0, size * 1.12]}
        return {f"yaxis{self.number}": self.axis | place | {"title": {"text": "in use, tokens"}, "nticks": 4}}


def _pool(
    figure: go.Figure, strip: _Strip, own: dict[str, np.ndarray], block_size: int, palette: Palette, *, named: bool
) -> bool:
    """Draw one run's pool. ``named``: its preemptions are the first that the legend names. Says whether there were
    any.
    """
    t, used, name, place = own["t"], own["blocks_used"] * block_size, strip.name, f"y{strip.number}"
    size = float(np.nanmax(own["blocks_total"])) * block_size
    figure.update_layout(strip.layout(size))
    figure.add_scatter(
        x=t,
        y=used,
        name="used",
        legendgroup="used",
        showlegend=strip.index == 0,
        mode="lines",
        line={"color": palette.kv_used, "width": 1.75, "shape": "hv"},
        fill="tozeroy",
        fillcolor=faded(palette.kv_used, 0.35),
        yaxis=place,
        hovertemplate="%{y:,.0f} tokens at %{x:.1f} s<extra>" + name + "</extra>",
    )
    figure.add_scatter(
        x=[float(t.min(initial=0.0)), float(t.max())],
        y=[size, size],
        name="pool",
        legendgroup="pool",
        showlegend=strip.index == 0,
        mode="lines",
        line={"color": palette.text, "width": 1.5, "dash": "dash"},
        yaxis=place,
        hovertemplate=f"pool: {size:,.0f} tokens<extra>{name}</extra>",
    )
    full = np.nan_to_num(own["preempted"]) > 0
    some = bool(full.any())
    marks = preemption_marks(
        t[full], used[full], own["preempted"][full], palette, run=name, yaxis=place, named=some and named
    )
    figure.add_trace(marks)
    figure.add_annotation(
        text=name,
        x=0,
        y=strip.top - 0.11 / strip.count,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"color": palette.text, "size": 13},
    )
    return some


def _times(low: float, high: float) -> dict[str, Any]:
    """An axis of multiples, on a log scale, with some room beside the least and the greatest."""
    ticks = {"tickvals": list(TICKS), "ticktext": [f"{tick:g}x" for tick in TICKS]}
    return {"type": "log", "rangemode": "normal", "range": [np.log10(low * 0.85), np.log10(high * 1.2)], **ticks}
