"""One iteration under the lens: its row, who computed what in it, and what the scheduler decided."""

from __future__ import annotations

import duckdb
import numpy as np
import streamlit as st

from app import charts
from app.panels.sentences import decision_in_words
from app.words.decisions import iteration_in_words
from app.words.plain import plain
from store import queries
from telemetry.rows import IterationRow, SliceRow, columns

MOST_ITERATIONS = 2000


def iteration_inspector(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Let the reader pick an iteration (first the longest one) and tell everything recorded of it."""
    steps = queries.iterations(con, run_id, MOST_ITERATIONS)
    if not steps.num_rows:
        st.info("No iteration was recorded in this run.")
        return
    numbers = charts.column(steps, "iteration")
    longest = int(numbers[int(np.nanargmax(charts.column(steps, "duration_ms")))])
    first, last = int(numbers.min()), int(numbers.max())
    asked = st.query_params.get("iteration", "")  # of the address: a point of a comparison that was clicked
    begin = int(asked) if asked.isdigit() and first <= int(asked) <= last else longest
    key = f"iteration-{run_id}-{begin}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.number_input(
            f"Iteration ({first} to {last})",
            value=begin,
            step=1,
            key=key,
            width=220,
            help="Begins at the longest one, or at the one in the address.",
        )
        st.button("The longest", key="longest", on_click=lambda: st.session_state.update({key: longest}))
    detail = queries.iteration_detail(con, run_id, int(chosen))
    if detail is None:
        st.info(f"Iteration {chosen} was not recorded. This run has {first} to {last}.")
        return
    st.markdown(plain(iteration_in_words(detail["row"])))
    st.markdown("**Who computed what**")
    if detail["slices"]:
        known = columns(SliceRow)
        config = {
            name: st.column_config.Column(name.replace("_", " "), help=column.help) for name, column in known.items()
        }
        config["itl_ms"] = st.column_config.NumberColumn("ITL, ms", format="%.1f", help=known["itl_ns"].help)
        st.dataframe(detail["slices"], hide_index=True, column_config=config, alt=f"{len(detail['slices'])} requests")
    else:
        st.caption("Slices were not recorded (recording: iterations or off).")
    st.markdown("**What the scheduler decided**")
    for decision in detail["decisions"]:
        st.markdown("- " + plain(decision_in_words(decision)))
    if not detail["decisions"]:
        st.caption("Nothing out of the ordinary: the same requests went on.")
    with st.expander("Every column of the row"):
        known = columns(IterationRow)
        rows = [
            {
                "column": name,
                "value": str(value),
                "unit": known[name].unit,
                "meaning": known[name].help,
                "is": known[name].provenance,
            }
            for name, value in detail["row"].items()
            if name in known
        ]
        st.dataframe(rows, hide_index=True)
