"""Explain boxes: one step of a run as a batch, on the roofline, and as what one of its tokens cost; and the KV cache's
bytes with lengths of the reader's own. All figures are the run's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import streamlit as st

from app import charts
from app.charts import CONFIG
from app.charts.batch import batch_picture
from app.components.chart_card import page_palette
from app.components.fields import begin
from app.lab import Lab
from app.words.plain import plain
from app.words.step_cost import (
    Row,
    kv_rows,
    kv_sentence,
    roofline_rows,
    roofline_sentence,
    token_rows,
    token_sentence,
)
from store import iteration_window, queries
from store.kv_bytes import kv_bytes
from store.step_cost import StepCost, mean_lengths, newest_step, step_cost, usual_step

LIVE_S = 1.0
MOST_TOKENS, MOST_REQUESTS = 1_000_000, 100_000


def explained_run(con: duckdb.DuckDBPyConnection, run_id: str, row: Mapping[str, Any]) -> None:
    """The boxes of a run that is over, for the step that the reader chooses. ``row``: of ``queries.run``."""
    known = iteration_window.bounds(con, run_id)
    if known is None:
        st.info("No iteration was recorded in this run, so there is no step to explain.")
        return
    key = f"explained-{run_id}"
    if known.last > known.first:
        begin(key, None if key in st.session_state else usual_step(con, run_id))
        chosen = st.slider(
            "Step",
            known.first,
            known.last,
            key=key,
            help="The engine step that is explained. It begins with the median of the fullest decode steps.",
        )
    else:
        chosen = known.first
    _boxes(con, run_id, row, int(chosen))
    _kv_calculator(con, run_id, row)


def explained_now(lab: Lab, run_id: str) -> None:
    """The same of a run that goes on, for its newest step, once the reader opens it."""
    box = st.expander("What a step costs, now", icon=":material/calculate:", key="explained-now", on_change="rerun")
    if box.open:
        with box:
            st.fragment(_now, run_every=LIVE_S)(lab, run_id)


def _now(lab: Lab, run_id: str) -> None:
    with lab.database.read() as con:
        row = queries.run(con, run_id)
        newest = newest_step(con, run_id)
        if row is None or newest is None:
            st.caption("No step has been recorded yet.")
            return
        _boxes(con, run_id, row, newest)


def _boxes(con: duckdb.DuckDBPyConnection, run_id: str, row: Mapping[str, Any], iteration: int) -> None:
    step = step_cost(con, run_id, iteration, row)
    if step is None:
        st.caption(f"Step {iteration} computed nothing, or its row does not say what it moved.")
        return
    left, right = st.columns(2)
    with left:
        with st.container(border=True, key="explained-token"):
            st.markdown("**What one token costs**")
            st.markdown(plain(token_sentence(step)))
            _table(token_rows(step), f"What one token of step {iteration} cost")
            given = "given out" if step.gives else "computed"
            st.caption(
                f"Divided by the {step.tokens:,} tokens {given}. Bytes and arithmetic are modelled, time is measured."
            )
        with st.container(border=True, key="explained-batch"):
            st.markdown("**The batch**")
            st.html(batch_picture(queries.batch_makeup(con, run_id, iteration, iteration).to_pylist(), step))
    with right, st.container(border=True, key="explained-roofline"):
        st.markdown("**The roofline**")
        st.markdown(plain(roofline_sentence(step)))
        _table(roofline_rows(step), f"Step {iteration} against the limits of the device")
        _roofline(con, run_id, row, step)


def _roofline(con: duckdb.DuckDBPyConnection, run_id: str, row: Mapping[str, Any], step: StepCost) -> None:
    recent = queries.roofline_query(run_id, 300).table(con)
    figure = charts.roofline(recent, row.get("peaks"), page_palette(), shown=step)
    alt = f"Step {step.iteration} on the roofline. {roofline_sentence(step)}"
    st.plotly_chart(figure, alt=alt, key="explained-roof", config=CONFIG, theme=None)


def _kv_calculator(con: duckdb.DuckDBPyConnection, run_id: str, row: Mapping[str, Any]) -> None:
    kv = kv_bytes(row.get("model") or {})
    if kv is None:
        return
    prompt, output = mean_lengths(con, run_id) or (1.0, 1.0)
    with st.container(border=True, key="explained-kv"):
        st.markdown(f"**KV memory**, stored as {plain(kv.name)}")
        with st.container(horizontal=True):
            lengths = [
                st.number_input(label, least, most, value, key=f"explained-{name}-{run_id}", width=180, help=help_text)
                for name, label, least, most, value, help_text in (
                    ("prompt", "Prompt tokens", 1, MOST_TOKENS, max(1, round(prompt)), "The run's own mean, or yours."),
                    ("output", "Output tokens", 1, MOST_TOKENS, max(1, round(output)), "The run's own mean, or yours."),
                    ("requests", "Requests at once", 1, MOST_REQUESTS, 8, "How many requests are held side by side."),
                )
            ]
        asked = int(lengths[0]), int(lengths[1]), int(lengths[2])
        _table(kv_rows(kv, *asked), "Bytes of keys and values")
        st.markdown(plain(kv_sentence(kv, *asked)))


def _table(rows: Sequence[Row], alt: str) -> None:
    table = [
        {"": f"**{plain(what)}**", "With this run's numbers": plain(formula), "Comes to": plain(value)}
        for what, formula, value in rows
    ]
    st.table(table, border="horizontal", hide_index=True, alt=alt)
