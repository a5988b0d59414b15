"""What became of ended turns' blocks and when programs were done: shown below the run's other charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.components.chart_card import chart_card, page_palette
from app.panels.panel import FinishedRun
from app.panels.time_to_live import charts
from app.panels.time_to_live.tables import pins_table, programs_table
from app.panels.time_to_live.words import CHARTS, PARTS, REASONS
from app.words.plain import counted
from store import programs


def time_to_live_section(run: FinishedRun) -> None:
    """Draw the section of a run that decided what becomes of ended turns' blocks."""
    con, run_id, colours = run.con, run.facts.run_id, page_palette()
    st.subheader("Time to live", anchor=False)
    pins, summary = programs.pins_query(run_id).rows(con), programs.summary_query([run_id]).rows(con)
    st.caption(f"{pins_in_words(pins)} {programs_in_words(summary)}")
    for table in (programs_table(summary), pins_table(pins)):
        if table.rows:
            shown = [dict(zip(table.heads, cells, strict=True)) for cells in table.cells()]
            st.dataframe(shown, hide_index=True, alt=table.title)
    left, right = st.columns(2)
    with left:
        query, name = programs.programs_query(run_id), "time-to-live-programs"
        parts, words = query.table(con), programs_in_words(summary)
        chart_card(CHARTS[name], charts.programs(parts, colours), parts, query, name=name, summary=words)
    with right:
        query, name = programs.completion_query(run_id), "time-to-live-completion"
        done = query.table(con)
        chart_card(CHARTS[name], charts.completion(done, colours), done, query, name=name, summary=words)
    query, name, words = programs.pinned_query(run_id), "time-to-live-pinned", pins_in_words(pins)
    pinned = query.table(con)
    chart_card(CHARTS[name], charts.pinned(pinned, colours), pinned, query, name=name, summary=words, until=run.until_s)


def pins_in_words(pins: Sequence[dict[str, Any]]) -> str:
    """``pins``: rows of ``store.programs.pins_query``."""
    times = {(row["action"], row["reason"]): row["times"] for row in pins}
    made = times.get(("pin", None), 0)
    said = []
    if made:
        ended = [f"{words} {n:,}" for reason, words in REASONS.items() if (n := times.get(("unpin", reason), 0))]
        said.append(f"{counted(made, 'turn')} pinned; pins ended: {', '.join(ended) or 'none'}.")
    if declined := times.get(("decline", None), 0):
        said.append(f"{counted(declined, 'turn')} not worth the memory.")
    if evicted := times.get(("evict", None), 0):
        said.append(f"{counted(evicted, 'turn')} gave blocks up at the end.")
    return " ".join(said) or "No turn was pinned."


def programs_in_words(summary: Sequence[dict[str, Any]]) -> str:
    """``summary``: rows of ``store.programs.summary_query``, of one run."""
    row = summary[0] if summary else None
    if row is None or not row["done"]:
        return charts.NO_PROGRAM
    parts = ", ".join(f"{name} {row[f'{part}_s']:,.2f} s" for part, name in PARTS.items())
    done = f"{row['done']:,} of {counted(row['programs'], 'program')} done"
    again = f"{row['recomputed_tokens']:,.0f} tokens computed again"
    return f"{done}, after {row['completion_s']:,.2f} s on average: {parts}; {again}."
