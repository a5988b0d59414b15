"""The gap before every token, as dots; stalls stand out, an earlier run stays behind as a ghost."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import TALL, Table, column, new_figure, opens, rows, say_nothing_here
from app.theme import Palette
from store.metrics import STALL_MS

MOST_DOTS = 1500  # each is a shape of its own to the browser


@dataclass(frozen=True)
class Ghost:
    """An earlier run behind the present one: what to call it, its ``t`` and ``itl_ms``, and which run it is."""

    name: str
    table: Table
    run_id: str


def token_gaps(
    table: Table, palette: Palette, stall_ms: float = STALL_MS, *, ghost: Ghost | None = None, log: bool = True
) -> go.Figure:
    """One dot per token at (time, gap since the request's token before).

    ``table``: ``t`` (s), ``itl_ms``, ``request``. Gaps above ``stall_ms`` are stalls. Of more than ``MOST_DOTS`` dots
    every stall is kept and the others are thinned evenly.
    """
    figure = new_figure(palette, y_title="ITL, ms", height=TALL)
    if log:
        figure.update_yaxes(type="log", rangemode="normal", dtick=1)
    if ghost is not None:
        _dots(
            figure,
            ghost.table,
            f"before: {escape(ghost.name, quote=False)}",
            palette.ghost,
            stall_ms,
            palette.ghost,
            palette,
            ghost.run_id,
        )
    if not rows(table):
        return say_nothing_here(figure, "No gap between tokens was recorded.", palette)
    _dots(figure, table, "ITL", palette.decode, stall_ms, palette.stall, palette)
    if np.isfinite(stall_ms):
        figure.add_hline(y=stall_ms, line={"color": palette.stall, "width": 1.5, "dash": "dash"})
        figure.add_annotation(
            x=1,
            y=np.log10(stall_ms) if log else stall_ms,  # Plotly places annotations of a log axis by exponent
            xref="x domain",
            text=f"stall: over {stall_ms:g} ms",
            font={"color": palette.stall, "size": 13},
            showarrow=False,
            xanchor="right",
            yanchor="bottom",
        )
    return figure


def thinned(values: np.ndarray, stall_ms: float, most: int = MOST_DOTS) -> np.ndarray:
    """Indices of the gaps to draw, in order: every stall, and of the rest an even share, about ``most`` in all."""
    known = np.flatnonzero(values > 0)
    if len(known) <= most:
        return known
    stalls = known[values[known] > stall_ms]
    rest = known[~(values[known] > stall_ms)]
    step = max(1, -(-len(rest) // max(1, most - len(stalls))))
    return np.sort(np.concatenate([stalls, rest[::step]]))


def _dots(
    figure: go.Figure,
    table: Table,
    name: str,
    colour: str,
    stall_ms: float,
    stall_colour: str,
    palette: Palette,
    run_id: str = "",
) -> None:
    gaps = column(table, "itl_ms")
    shown = thinned(gaps, stall_ms)
    t, gaps, request = column(table, "t")[shown], gaps[shown], column(table, "request")[shown]
    is_ghost = colour == palette.ghost
    for stalled in (False, True):
        mask = (gaps > stall_ms) == stalled
        if stalled and not mask.any():
            continue
        figure.add_scatter(
            x=t[mask],
            y=gaps[mask],
            mode="markers",
            name=("stall" if not is_ghost else "stall before") if stalled else name,
            showlegend=not (is_ghost and stalled),
            marker={
                "color": stall_colour if stalled else colour,
                "size": 9 if stalled else 5,
                "symbol": "diamond" if stalled else "circle",
                "opacity": 0.5 if is_ghost else 0.9,
                "line": {"width": 0},
            },
            customdata=request[mask],
            meta=opens("request", run_id),
            hovertemplate="%{y:,.1f} ms, request %{customdata:d}<br>at %{x:,.2f} s<extra>"
            + ("stall" if stalled else "")
            + "</extra>",
        )
