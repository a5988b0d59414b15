"""What the tiers below a run's KV pool did: shown below the run's other charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.components.chart_card import chart_card, page_palette
from app.panels.kv_tiers import charts
from app.panels.kv_tiers.tables import LEVELS, PLACES, ttft_table, work_table
from app.panels.kv_tiers.words import CHARTS
from app.panels.panel import FinishedRun
from store import tiers


def tiers_section(run: FinishedRun) -> None:
    """Draw the section of a run that kept evicted blocks."""
    con, run_id, colours = run.con, run.facts.run_id, page_palette()
    st.subheader("KV tiers", anchor=False)
    work = tiers.work_query(run_id).rows(con)
    said = work_in_words(work)
    st.caption(said)
    by_place = tiers.ttft_query(run_id).rows(con)
    for table in (work_table(work), ttft_table(by_place)):
        if table.rows:
            shown = [dict(zip(table.heads, cells, strict=True)) for cells in table.cells()]
            st.dataframe(shown, hide_index=True, alt=table.title)
    left, right = st.columns(2)
    with left:
        query = tiers.hits_query(run_id)
        hits = query.table(con)
        figure = charts.hits(hits, colours)
        chart_card(CHARTS["tier-hits"], figure, hits, query, name="tier-hits", summary=said, until=run.until_s)
    with right:
        query = tiers.requests_query(run_id)
        requests, words = query.table(con), ttft_in_words(by_place)
        figure = charts.ttft(requests, colours, run_id)
        chart_card(CHARTS["tier-ttft"], figure, requests, query, name="tier-ttft", summary=words, remark=words)
    left, right = st.columns(2)
    with left:
        query = tiers.stack_query(run_id)
        parts = query.table(con)
        figure, words = charts.stack(parts, colours), stack_in_words(parts.to_pylist())
        chart_card(CHARTS["tier-stack"], figure, parts, query, name="tier-stack", summary=words, remark=words)
    with right:
        query = tiers.waits_query(run_id)
        waits = query.table(con)
        figure, words = charts.waits(waits, colours), waits_in_words(waits.to_pylist())
        chart_card(CHARTS["tier-waits"], figure, waits, query, name="tier-waits", summary=words, remark=words)
    left, right = st.columns(2)
    query = tiers.levels_query(run_id)
    levels = query.table(con)
    if levels.num_rows:
        with right:
            figure, words = charts.levels(levels, colours, run_id), levels_in_words(levels.to_pylist())
            chart_card(CHARTS["tier-levels"], figure, levels, query, name="tier-levels", summary=words, remark=words)
    query = tiers.loss_query(run_id)
    lost = query.table(con)
    if lost.num_rows:
        with left:
            figure, words = charts.loss(lost, colours), codec_in_words(work, lost.to_pylist())
            chart_card(CHARTS["tier-loss"], figure, lost, query, name="tier-loss", summary=words, remark=words)


def work_in_words(work: Sequence[dict[str, Any]]) -> str:
    """``work``: rows of ``store.tiers.work_query``."""
    tokens = {(row["tier"], row["action"]): row["tokens"] for row in work}
    if not any(action == "store" for _, action in tokens):
        return "The KV pool evicted no prefix block, so there was nothing to keep."
    host, disk = tokens.get(("host", "load"), 0), tokens.get(("disk", "load"), 0)
    said = f"{host:,} prompt tokens were loaded from host memory and {disk:,} from disk instead of being computed."
    declined = sum(n for (_, action), n in tokens.items() if action == "decline")
    if declined:
        said += f" {declined:,} were found and computed again, as that was predicted to take less time."
    lost = sum(n for (_, action), n in tokens.items() if action == "lose")
    if lost:
        said += f" Blocks of {lost:,} tokens were lost for want of room."
    return said


def stack_in_words(parts: Sequence[dict[str, Any]]) -> str:
    """``parts``: rows of ``store.tiers.stack_query``."""
    loaded = [row for row in parts if row["place"] in ("host", "disk")]
    return (
        "; ".join(
            f"from {PLACES[row['place']]}: transfer {row['transfer_ms']:,.1f} ms, decoding {row['decode_ms']:,.1f} ms, "
            f"keeping others {row['store_ms']:,.1f} ms, computing {row['compute_ms']:,.1f} ms"
            for row in loaded
        )
        or "Nothing was loaded from a tier."
    )


def waits_in_words(waits: Sequence[dict[str, Any]]) -> str:
    """``waits``: rows of ``store.tiers.waits_query``."""
    took = sum(row["ms"] for row in waits)
    if not took:
        return "Nothing was copied."
    hidden = sum(row["hidden_ms"] for row in waits)
    said = f"Copies took {took:,.1f} ms; {hidden / took:.0%} of it was hidden behind steps."
    loads = [row for row in waits if row["request_ms"] is not None]
    return said + "".join(
        f" A request waited {row['request_ms']:,.1f} ms for a load from {PLACES[row['tier']]} on average."
        for row in loads
    )


def levels_in_words(levels: Sequence[dict[str, Any]]) -> str:
    """``levels``: rows of ``store.tiers.levels_query``."""
    blocks = {level: sum(row["blocks"] for row in levels if row["level"] == level) for level in LEVELS}
    return "Blocks by level: " + ", ".join(f"{LEVELS[level]} {n:,}" for level, n in blocks.items() if n) + "."


def codec_in_words(work: Sequence[dict[str, Any]], lost: Sequence[dict[str, Any]]) -> str:
    """``work``: rows of ``store.tiers.work_query``; ``lost``: of ``store.tiers.loss_query``."""
    stores = [row for row in work if (row["tier"], row["action"]) == ("disk", "store") and row["stored_bytes"]]
    if not stores or not lost:
        return "No block went through a codec."
    ratio = sum(row["bytes"] for row in stores) / sum(row["stored_bytes"] for row in stores)
    first, last = lost[0], lost[-1]
    return (
        f"Blocks on disk take 1/{ratio:.1f} of their bytes. The codec changes keys by {first['key_error']:.1%} in the "
        f"first layer and {last['key_error']:.1%} in the last, values by {first['value_error']:.1%} and "
        f"{last['value_error']:.1%}."
    )


def ttft_in_words(by_place: Sequence[dict[str, Any]]) -> str:
    """``by_place``: rows of ``store.tiers.ttft_query``."""
    words = {
        "nothing": "computed from the start",
        "pool": "found in the KV pool",
        "host": "loaded from host memory",
        "disk": "loaded from disk",
    }
    return "; ".join(f"{words[row['place']]}: median TTFT {row['ttft_ms']:,.1f} ms" for row in by_place)
