"""What all figures share: colours, axes with units, hover, the toolbar, and reading columns of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

# Imported for its effect: Plotly looks for pandas among the loaded modules, and would find it half loaded while another
# thread
# (Arrow, Streamlit) imports it for the first time.
import pandas  # noqa: F401
import plotly.graph_objects as go

from app.theme import Palette

CONFIG = {
    "showSendToCloud": False,
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}
"""Plotly's toolbar: no button that uploads the data, no logo."""

HEIGHT, TALL = 270, 340
MARGIN = {"l": 76, "r": 12, "t": 48, "b": 56}
"""Room for the axes' words. Where it does not suffice Plotly makes more (automargin), by drawing the chart again."""

FONT = "'Source Sans', 'Source Sans 3', system-ui, sans-serif"

TIME = "time since the start, s"
"""Title of the axis that charts of one run share."""

Table = Any
"""Anything that gives a column by name: an Arrow table, a data frame, a dictionary of lists."""


def column(table: Table, name: str) -> np.ndarray:
    """A column as float64 [rows], missing values as NaN; all NaN when the table lacks it."""
    names = getattr(table, "column_names", None) or getattr(table, "columns", None) or table.keys()
    if name not in list(names):
        return np.full(rows(table), np.nan)
    return np.asarray(table[name], dtype=np.float64)


def rows(table: Table) -> int:
    """How many rows a table has."""
    if hasattr(table, "num_rows"):
        return int(table.num_rows)
    if hasattr(table, "shape"):
        return int(table.shape[0])
    return max((len(values) for values in table.values()), default=0)


def new_figure(palette: Palette, *, y_title: str, height: int = HEIGHT, x_title: str = TIME) -> go.Figure:
    """An empty figure in the lab's dress; the titles name quantity and unit."""
    axis = {
        "gridcolor": palette.grid,
        "linecolor": palette.grid,
        "zeroline": False,
        "tickfont": {"color": palette.muted},
        "automargin": True,
        "exponentformat": "none",
        "separatethousands": True,
        "rangemode": "tozero",
    }
    title_font = {"color": palette.muted, "size": 13}
    return go.Figure(  # given at once: to update a figure piece by piece takes ten times as long
        layout={
            "height": height,
            "margin": MARGIN,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": palette.text, "size": 14, "family": FONT},
            "hoverlabel": {
                "bgcolor": palette.background,
                "font": {"color": palette.text, "size": 13},
                "bordercolor": palette.muted,
            },
            "legend": {
                "orientation": "h",
                "traceorder": "normal",
                "y": 1.02,
                "yanchor": "bottom",
                "x": 0,
                "title": None,
                "font": {"size": 13},
            },
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.accent},
            "dragmode": "zoom",
            "uirevision": "run",
            "xaxis": axis | {"title": {"text": x_title, "font": title_font}},
            "yaxis": axis | {"title": {"text": y_title, "font": title_font}, "fixedrange": True},
        }
    )


def on_one_clock(figure: go.Figure, end_s: float) -> go.Figure:
    """Give a figure over the run's time the range that all of them have, from the start to ``end_s``, and tie its zoom
    to theirs.
    """
    figure.update_xaxes(range=[0, end_s])
    return figure.update_layout(meta="time")


def opens(what: str, run_id: str = "") -> dict[str, Any]:
    """A trace's ``meta``: a click on a mark opens the iteration or request whose number its ``customdata`` begins
    with.
    """
    return {"opens": what, "run": run_id}


def say_nothing_here(figure: go.Figure, words: str, palette: Palette) -> go.Figure:
    """Write why a figure is empty in its middle."""
    figure.add_annotation(
        text=words, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font={"color": palette.muted}
    )
    return figure


def step_line(
    x: np.ndarray, y: np.ndarray, name: str, colour: str, *, unit: str, dash: str = "solid", fill: str | None = None
) -> go.Scatter:
    """A line that holds each value until the next; ``fill`` colours the area below."""
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode="lines",
        line={"shape": "hv", "color": colour, "width": 2, "dash": dash},
        fill="tozeroy" if fill else None,
        fillcolor=fill,
        hovertemplate=f"%{{y:,.4~g}} {unit}<extra>{name}</extra>",
    )


def stretches(figure: go.Figure, table: Table, kinds: Iterable[tuple[str, str, str]], said: str) -> go.Figure:
    """Stacked bars as wide as the stretches of time that end at the table's ``t``.

    Args:
        kinds: name, column and colour of each.
        said: what its hover says before the name.
    """
    t = column(table, "t")
    width = np.diff(t, prepend=0.0)
    return stacked(figure, t - width / 2, table, kinds, said, width=width).update_layout(bargap=0)


def stacked(
    figure: go.Figure, x: Any, table: Table, parts: Iterable[tuple[str, str, str]], said: str, **bars: Any
) -> go.Figure:
    """Bars at ``x`` of parts one upon the other.

    Args:
        parts: name, column and colour of each.
        said: what its hover says before the name.
        bars: what else Plotly takes for them.
    """
    for name, key, colour in parts:
        figure.add_bar(
            x=x,
            y=column(table, key),
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"{said}<extra>{name}</extra>",
            **bars,
        )
    return figure.update_layout(barmode="stack")


def faded(colour: str, opacity: float) -> str:
    """``#rrggbb`` with an opacity, as CSS."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
