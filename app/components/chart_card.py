"""A chart with its explanation, its data as a file and its question to the database, each one click away."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.csv
import streamlit as st

from app.charts import CONFIG, HEIGHT, on_one_clock
from app.charts.still import still
from app.components.figure_files import figure_files
from app.components.pin_button import pin_button
from app.components.when_seen import when_seen
from app.rights import Right, may
from app.theme import Palette, palette
from app.words.charts import ChartWords
from app.words.plain import plain
from store.query import Query

Opens = Callable[[Mapping[str, Any]], dict[str, str] | None]
"""What of a run a clicked point stands for, as parts of an address; None where it stands for nothing."""

Rows: TypeAlias = pa.Table | Callable[[], pa.Table]
"""The rows behind a picture, or what reads them once somebody wants the file: it must not need what is open only while
the page is drawn.
"""

CONTRAST = "contrast"
"""The part of the address that asks for high contrast (``contrast=high``)."""


def high_contrast() -> bool:
    """Whether the page is read from a weak projector."""
    return st.query_params.get(CONTRAST) == "high"


def page_palette() -> Palette:
    """The palette that fits the theme the reader chose."""
    return palette(str(st.context.theme.type or "light"), high_contrast=high_contrast())


def chart_card(
    words: ChartWords,
    figure: go.Figure | Callable[[], go.Figure],
    table: pa.Table,
    query: Query,
    *,
    name: str,
    summary: str,
    remark: str = "",
    control: Callable[[], Any] | None = None,
    until: float | None = None,
    opens: Opens | None = None,
    first: bool = False,
    height: int = HEIGHT,
) -> None:
    """Draw a card; its chart once the reader comes near it, or at once where it is the ``first`` of its page: on the
    run's clock as a picture, whose place the chart takes once the rest of the page is there.

    ``figure``: the chart, or what makes it when it is drawn; then ``height`` (pixels) is its height.

    ``name`` is the widget key and the file name, ``summary`` the chart in words for screen readers, ``remark`` a line
    above it, ``control`` draws what belongs to the chart beside its title, ``until`` (s) is the end of the time axis
    that the charts of a run share, ``opens`` says what of a run a clicked point stands for (``run`` and perhaps
    ``request`` or ``iteration``): the page turns there.
    """
    with st.container(border=True, key=f"card-{name}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{words.title}**", help=words.explained, width="stretch")
            if control is not None:
                control()
        if remark:
            st.caption(plain(remark))
        draw = partial(_chart, figure, until=until, alt=f"{words.title}. {summary}", key=f"chart-{name}", opens=opens)
        place = figure.layout.height if isinstance(figure, go.Figure) else height
        key = f"{name}-{st.query_params.get('run', '')}"
        if first and until is None:
            draw()
        elif first:
            made = figure if isinstance(figure, go.Figure) else figure()
            _in_its_clock(made, until)
            with st.container(gap=None, key=f"still-{name}"):
                st.html(still(made, f"{words.title}. {summary}"))
                when_seen(draw, key=key, height=place, rank=2)
        else:
            when_seen(draw, key=key, height=place)
        pin = partial(pin_button, words, figure, query, summary, name=name)
        data_row(table, query, name=name, chart=f"chart-{name}", pin=pin)


def _chart(
    made: go.Figure | Callable[[], go.Figure], *, until: float | None, alt: str, key: str, opens: Opens | None
) -> None:
    figure = made if isinstance(made, go.Figure) else made()
    _in_its_clock(figure, until)
    if opens is None:
        st.plotly_chart(figure, alt=alt, key=key, config=CONFIG, theme=None)
        return
    event = st.plotly_chart(
        figure, alt=alt, key=key, config=CONFIG, theme=None, on_select="rerun", selection_mode="points"
    )
    _open(event["selection"]["points"], opens)


def _in_its_clock(figure: go.Figure, until: float | None) -> None:
    if until is not None:
        on_one_clock(figure, until)


def _open(points: Sequence[Mapping[str, Any]], opens: Opens) -> None:
    target = opens(points[0]) if points else None
    if target is not None:
        st.switch_page("pages/live.py", query_params=target)


def data_row(table: Rows, query: Query, *, name: str, chart: str = "", pin: Callable[[], None] | None = None) -> None:
    """Buttons for the data behind a chart or table, for the SQL that gave it, and for the ``chart`` (its widget key) as
    a picture; ``pin`` draws one that puts it into a report.
    """
    with st.container(horizontal=True, gap="small"):
        if may(Right.EXPORT):
            st.download_button(
                "CSV",
                data=lambda: as_csv(table if isinstance(table, pa.Table) else table()),
                file_name=f"{name}.csv",
                mime="text/csv",
                key=f"csv-{name}",
                icon=":material/download:",
                on_click="ignore",
                type="tertiary",
                help=f"The {f'{table.num_rows:,} ' if isinstance(table, pa.Table) else ''}rows behind this, as a file",
            )
        with st.popover(
            "SQL", icon=":material/database:", type="tertiary", help="The question to the database behind this"
        ):
            st.code(query.sql, language="sql", wrap_lines=True)
            st.caption("Values bound to it")
            st.code("\n".join(f"${key} = {value!r}" for key, value in query.parameters.items()), language=None)
        if chart:
            figure_files(chart, name=name, background=page_palette().background)
        if pin is not None:
            pin()


def as_csv(table: pa.Table) -> bytes:
    """The table as CSV; lists are written with spaces between."""
    flat = {
        field.name: [None if v is None else " ".join(map(str, v)) for v in table[field.name].to_pylist()]
        if pa.types.is_list(field.type)
        else table[field.name]
        for field in table.schema
    }
    sink = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(flat), sink)
    return sink.getvalue()
