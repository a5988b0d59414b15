"""What memory the KV pool of a run was used for: shown below the run's other charts."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.components.chart_card import chart_card, page_palette
from app.panels.kv_layout import charts
from app.panels.kv_layout.tables import memory_table
from app.panels.kv_layout.words import CHARTS
from app.panels.panel import FinishedRun
from store import layouts


def layout_section(run: FinishedRun) -> None:
    """Draw the section of a run whose layout was chosen."""
    con, run_id, colours = run.con, run.facts.run_id, page_palette()
    st.subheader("Contiguous KV", anchor=False)
    totals = layouts.totals_query([run_id]).rows(con)
    said = totals_in_words(totals[0] if totals else None)
    st.caption(said)
    if totals:
        table = memory_table(totals)
        st.dataframe([dict(zip(table.heads, cells, strict=True)) for cells in table.cells()], hide_index=True, alt=said)
    query = layouts.parts_query(run_id)
    parts = query.table(con)
    left, right = st.columns(2)
    with left:
        figure = charts.parts(parts, colours)
        chart_card(CHARTS["layout-parts"], figure, parts, query, name="layout-parts", summary=said, until=run.until_s)
    with right:
        words = pages_in_words(totals[0] if totals else None)
        figure = charts.pages(parts, colours)
        chart_card(
            CHARTS["layout-pages"], figure, parts, query, name="layout-pages", summary=words, remark=words,
            until=run.until_s,
        )  # fmt: skip


def totals_in_words(row: dict[str, Any] | None) -> str:
    if row is None or row["used_share"] is None:
        return "Nothing was recorded of what the pool's memory was used for."
    used, internal, reserved = (100 * row[f"{part}_share"] for part in ("used", "internal", "reserved"))
    return (
        f"Of the memory that requests held, {used:.1f} % held computed tokens, {internal:.1f} % was the unused rest of "
        f"blocks or pages, and {reserved:.1f} % was reserved for tokens to come."
    )


def pages_in_words(row: dict[str, Any] | None) -> str:
    if row is None or not row["mapped_mb"]:
        return "Nothing is mapped or given back while requests are served."
    resident = "" if row["resident_mb"] is None else f" At most {row['resident_mb']:,.1f} MB were resident."
    return f"{row['mapped_mb']:,.1f} MB mapped, {row['released_mb']:,.1f} MB given back.{resident}"
