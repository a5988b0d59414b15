"""What a run's far pool did: shown below the run's other charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.components.chart_card import chart_card, page_palette
from app.panels.far_pool import charts
from app.panels.far_pool.tables import far_table
from app.panels.far_pool.words import CHARTS
from app.panels.panel import FinishedRun
from app.words.plain import counted
from store import lending


def far_pool_section(run: FinishedRun) -> None:
    """Draw the section of a run that had a far pool."""
    con, run_id, colours = run.con, run.facts.run_id, page_palette()
    st.subheader("Far KV pool", anchor=False)
    summary = lending.summary_query([run_id]).rows(con)
    said = far_in_words(summary)
    st.caption(said)
    table = far_table(summary)
    if table.rows:
        shown = [dict(zip(table.heads, cells, strict=True)) for cells in table.cells()]
        st.dataframe(shown, hide_index=True, alt=table.title)
    left, right = st.columns(2)
    with left:
        query, name = lending.pools_query(run_id), "far-pools"
        held = query.table(con)
        figure = charts.pools(held, colours)
        chart_card(CHARTS[name], figure, held, query, name=name, summary=said, until=run.until_s)
    with right:
        query, name = lending.requests_query(run_id, run.facts.spec.engine.block_size), "far-requests"
        requests = query.table(con)
        figure = charts.requests(requests, colours)
        chart_card(CHARTS[name], figure, requests, query, name=name, summary=said, until=run.until_s)
    query, name = lending.steps_query(run_id), "far-steps"
    steps = query.table(con)
    words = steps_in_words(steps.to_pylist())
    chart_card(CHARTS[name], charts.steps(steps, colours), steps, query, name=name, summary=words, remark=words)


def far_in_words(summary: Sequence[dict[str, Any]]) -> str:
    """``summary``: rows of ``store.lending.summary_query``, of one run."""
    row = summary[0] if summary else None
    if row is None or not row["borrowers"]:
        return charts.NOTHING
    said = (
        f"{counted(row['borrowers'], 'request')} borrowed from the far pool, {row['most_far_blocks']:,} blocks at "
        f"most; {counted(row['moved_blocks'], 'block')} ({row['moved_mb']:,.1f} MB) moved there. Attention there took "
        f"{row['compute_share'] or 0:.1%} of the time in steps"
    )
    return said + (f", the emulated link {row['link_share']:.1%}." if row["link_share"] else ".")


def steps_in_words(steps: Sequence[dict[str, Any]]) -> str:
    """``steps``: rows of ``store.lending.steps_query``."""
    far = [row["ms"] for row in steps if row["share"] > 0]
    near = [row["ms"] for row in steps if row["share"] == 0]
    if not steps:
        return charts.NO_DECODES
    parts = [(far, "with keys in the far pool"), (near, "without any")]
    return "; ".join(
        f"{counted(len(times), 'decode step')} {which}, {sum(times) / len(times):,.1f} ms on average"
        for times, which in parts
        if times
    )
