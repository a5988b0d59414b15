"""Where the lifetimes of a run's requests went: shown below the run's other charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.components.chart_card import chart_card, page_palette
from app.panels.panel import FinishedRun
from app.panels.placement import charts
from app.panels.placement.tables import halves_table
from app.panels.placement.words import CHARTS, PARTS
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
        st.caption(memory_in_words((run.row.get("model") or {}).get("halves") or {}))
    lifetimes = handovers.lifetimes_query(run_id)
    drawn = lifetimes.table(con)
    name = "placement-lifetimes"
    chart_card(CHARTS[name], charts.lifetimes(drawn, colours), drawn, lifetimes, name=name, summary=said)
    if not halves:
        return
    query, name = handovers.transfers_query(run_id), "placement-transfers"
    sent = query.table(con)
    words = transfers_in_words(sent.to_pylist())
    copied = any(row["mb"] for row in sent.to_pylist()) or not sent.num_rows
    if not copied:  # one pool: what moved is the share of the CPU
        st.caption(words)
    left, right = st.columns(2)
    with left:
        if copied:
            chart_card(
                CHARTS[name], charts.transfers(sent, colours), sent, query, name=name, summary=words, remark=words
            )  # fmt: skip
        else:
            _share(run, threads_in_words(halves))
    with right:
        query, name = handovers.busy_query(run_id), "placement-busy"
        shares = query.table(con)
        words = halves_in_words(halves)
        chart_card(
            CHARTS[name], charts.busy(shares, colours), shares, query, name=name, summary=words, remark=words,
            until=run.until_s,
        )  # fmt: skip


def _share(run: FinishedRun, words: str) -> None:
    query, name = handovers.share_query(run.facts.run_id), "placement-share"
    had = query.table(run.con)
    chart_card(
        CHARTS[name], charts.share(had, page_palette()), had, query, name=name, summary=words, remark=words,
        until=run.until_s,
    )  # fmt: skip


def lifetimes_in_words(row: Row | None) -> str:
    """What the mean request did when."""
    if row is None:
        return "No request got a token."
    listed = ", ".join(f"{name} {row[f'{part}_ms']:,.1f} ms" for part, name in PARTS.items())
    apart = f"{row['handed_over']:,} were handed over" if row["handed_over"] else "one engine computed both phases"
    return f"Of the mean request: {listed}; {apart}."


def halves_in_words(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row['half']} half in steps {100 * (row['busy_share'] or 0):.1f} % of the time" for row in rows)


def memory_in_words(halves: Mapping[str, Row]) -> str:
    """What each half has of the machine's memory, from the facts of a run's row; empty where they say nothing."""
    if not halves:
        return ""
    if not all("shared_bytes" in half for half in halves.values()):
        weights = sum(half["weight_bytes"] for half in halves.values()) / 1e6
        return f"Weights are in memory twice, {weights:,.0f} MB in all; each half has its own KV pool."
    listed = "; ".join(f"{name} half {half['private_bytes'] / 1e6:,.0f} MB of its own" for name, half in halves.items())
    shared = min(half["shared_bytes"] for half in halves.values()) / 1e6
    weights = next(iter(halves.values()))["weight_bytes"] / 1e6
    return (
        f"Weights are in memory once ({weights:,.0f} MB are read by a step), and so is the KV pool. Beside it both "
        f"halves share {shared:,.0f} MB, as the system counts it; {listed}."
    )


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
