"""Charts of tiers: prefix tokens found by tier over time, and TTFT by tier."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, faded, new_figure, opens, rows, say_nothing_here, stacked, stretches
from app.panels.kv_tiers.tables import LEVELS, PARTS, PLACES, WAYS
from app.theme import Palette


def hits(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.tiers.hits_query``."""
    figure = new_figure(palette, y_title="prefix found, tokens")
    kinds = (
        ("KV pool", "pool_tokens", palette.kv_used),
        ("host memory", "host_tokens", palette.decode),
        ("disk", "disk_tokens", palette.draft),
        ("declined", "declined_tokens", palette.prefill),
    )
    if not sum(np.nansum(column(table, key)) for _, key, _ in kinds):
        return say_nothing_here(figure, "No prompt began with tokens that were still there.", palette)
    return stretches(figure, table, kinds, "%{y:,} tokens")


def ttft(table: Table, palette: Palette, run_id: str = "") -> go.Figure:
    """``table``: of ``store.tiers.requests_query``."""
    figure = new_figure(palette, y_title="TTFT, ms", x_title="where the prefix was found")
    if not rows(table):
        return say_nothing_here(figure, "No request had a first token.", palette)
    colours = (palette.prefill, palette.kv_used, palette.decode, palette.draft)
    places = np.asarray(table["place"].to_pylist())
    for (place, name), colour in zip(PLACES.items(), colours, strict=True):
        here = places == place
        if not here.any():
            continue
        customdata = np.stack(
            [column(table, key)[here] for key in ("request", "cached_tokens", "prompt_tokens")], axis=1
        )
        figure.add_box(
            x=[name] * int(here.sum()),
            y=column(table, "ttft_ms")[here],
            customdata=customdata,
            name=name,
            boxpoints="all",
            pointpos=0,
            jitter=0.4,
            marker={"color": colour, "size": 5},
            line={"width": 1.5},
            fillcolor="rgba(0,0,0,0)",
            hovertemplate="%{y:,.4~g} ms, %{customdata[1]:,} of %{customdata[2]:,} tokens found"
            "<extra>request %{customdata[0]}</extra>",
            meta=opens("request", run_id),
        )
    return figure.update_layout(showlegend=False)


def stack(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.tiers.stack_query``."""
    figure = new_figure(palette, y_title="mean TTFT, ms", x_title="where the prefix was found")
    if not rows(table):
        return say_nothing_here(figure, "No request had a first token.", palette)
    colours = {
        "wait": faded(palette.ghost, 0.6),
        "store": faded(palette.stall, 0.75),
        "transfer": palette.mixed,
        "decode": palette.draft,
        "compute": palette.prefill,
    }
    places = [PLACES[place] for place in table["place"].to_pylist()]
    parts = [(name, f"{part}_ms", colours[part]) for part, name in PARTS.items()]
    return stacked(figure, places, table, parts, "%{y:,.4~g} ms").update_layout(bargap=0.35)


def waits(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.tiers.waits_query``."""
    figure = new_figure(palette, y_title="time of copies, ms", x_title="")
    if not rows(table):
        return say_nothing_here(figure, "Nothing was copied.", palette)
    ways = [WAYS[row["tier"], row["action"]] for row in table.to_pylist()]
    parts = (
        ("engine waited", "waited_ms", faded(palette.stall, 0.75)),
        ("hidden behind steps", "hidden_ms", palette.decode),
    )
    return stacked(figure, ways, table, parts, "%{y:,.4~g} ms").update_layout(bargap=0.35)


def levels(table: Table, palette: Palette, run_id: str = "") -> go.Figure:
    """``table``: of ``store.tiers.levels_query``."""
    figure = new_figure(palette, y_title="rate of the link, GB/s")
    if not rows(table):
        return say_nothing_here(figure, "No level was chosen.", palette)
    colours = (palette.kv_used, palette.decode, palette.draft, palette.prefill)
    chosen = np.asarray(table["level"].to_pylist())
    for (level, name), colour in zip(LEVELS.items(), colours, strict=True):
        here = chosen == level
        if not here.any():
            continue
        customdata = np.stack([column(table, key)[here] for key in ("request", "blocks", "left_ms")], axis=1)
        figure.add_scatter(
            x=column(table, "t")[here],
            y=column(table, "gb_per_s")[here],
            customdata=customdata,
            name=name,
            mode="markers",
            marker={"color": colour, "size": 8},
            hovertemplate=f"{name}: %{{customdata[1]:,}} blocks at %{{y:,.3~g}} GB/s, %{{customdata[2]:,.0f}} ms left"
            "<extra>request %{customdata[0]}</extra>",
            meta=opens("request", run_id),
        )
    return figure.update_yaxes(type="log")


def loss(table: Table, palette: Palette) -> go.Figure:
    """``table``: of ``store.tiers.loss_query``."""
    figure = new_figure(palette, y_title="relative error, %", x_title="layer")
    if not rows(table):
        return say_nothing_here(figure, "No block went through a codec.", palette)
    for name, key, colour in (("keys", "key_error", palette.prefill), ("values", "value_error", palette.decode)):
        figure.add_scatter(
            x=column(table, "layer"),
            y=100 * column(table, key),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 5},
            hovertemplate=f"%{{y:,.3~g}} %, layer %{{x}}<extra>{name}</extra>",
        )
    return figure
