"""Where the lifetimes of a run's requests went: shown below the run's other charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import streamlit as st

from app.components.chart_card import chart_card, page_palette
from app.panels.panel import FinishedRun
from app.panels.placement import charts
from app.panels.placement.tables import halves_table
from app.panels.placement.words import CHARTS, PARTS
from app.theme import Palette
from store import handovers

Row = Mapping[str, Any]


def placement_section(run: FinishedRun) -> None:
    """Draw the section of a run whose placement was chosen."""
    con, run_id, colours = run.con, run.facts.run_id, page_palette()
    st.subheader("Disaggregation", anchor=False)
    parts, halves = handovers.parts_query([run_id]).rows(con), handovers.halves_query(run_id).rows(con)
    said = lifetimes_in_words(parts[0] if parts else None)
    st.caption(said)
    if halves:
        table = halves_table(halves)
        shown = [dict(zip(table.heads, cells, strict=True)) for cells in table.cells()]
        st.dataframe(shown, hide_index=True, alt=halves_in_words(halves))
    lifetimes = handovers.lifetimes_query(run_id)
    drawn = lifetimes.table(con)
    name = "placement-lifetimes"
    chart_card(CHARTS[name], charts.lifetimes(drawn, colours), drawn, lifetimes, name=name, summary=said)
    if not halves:
        return
    left, right = st.columns(2)
    with left:
        _transfers(con, run_id, colours)
        query, name = handovers.share_query(run_id), "placement-share"
        had = query.table(con)
        words = threads_in_words(halves)
        chart_card(
            CHARTS[name], charts.share(had, colours), had, query, name=name, summary=words, remark=words,
            until=run.until_s,
        )  # fmt: skip
    with right:
        query, name = handovers.busy_query(run_id), "placement-busy"
        shares = query.table(con)
        words = halves_in_words(halves)
        chart_card(
            CHARTS[name], charts.busy(shares, colours), shares, query, name=name, summary=words, remark=words,
            until=run.until_s,
        )  # fmt: skip


def _transfers(con: duckdb.DuckDBPyConnection, run_id: str, colours: Palette) -> None:
    """The chart of copies; where both halves have one pool there are none, and a line says so."""
    query, name = handovers.transfers_query(run_id), "placement-transfers"
    sent = query.table(con)
    words = transfers_in_words(sent.to_pylist())
    if sent.num_rows and not any(row["mb"] for row in sent.to_pylist()):
        st.caption(words)
        return
    chart_card(CHARTS[name], charts.transfers(sent, colours), sent, query, name=name, summary=words, remark=words)


def lifetimes_in_words(row: Row | None) -> str:
    """What the mean request did when."""
    if row is None:
        return "No request got a token."
    listed = ", ".join(f"{name} {row[f'{part}_ms']:,.1f} ms" for part, name in PARTS.items())
    apart = f"{row['handed_over']:,} were handed over" if row["handed_over"] else "one engine computed both phases"
    return f"Of the mean request: {listed}; {apart}."


def halves_in_words(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row['half']} half in steps {100 * (row['busy_share'] or 0):.1f} % of the time" for row in rows)


def threads_in_words(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row['half']} half {row['threads'] or 0:.2f} threads in the mean step" for row in rows) + "."


def transfers_in_words(rows: Sequence[Row]) -> str:
    """Bytes and bandwidth over all transfers."""
    if rows and not any(row["mb"] for row in rows):
        kept = sum(row["blocks_kept"] for row in rows)
        return f"{len(rows):,} requests were handed over with {kept:,} blocks that stayed in place: nothing was copied."
    moved, spent = sum(row["mb"] for row in rows), sum(row["copying_ms"] for row in rows)
    if not moved or not spent:
        return charts.NOTHING
    return f"{moved:,.1f} MB in {len(rows):,} transfers, {moved / spent:,.2f} GB/s while copying, checksums included."
