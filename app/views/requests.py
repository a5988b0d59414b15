"""Every request of a run, with its latencies; the texts of the one that is chosen."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app.components.chart_card import data_row
from app.components.fields import told_by
from app.components.selection import select, selected
from app.components.when_seen import when_seen
from app.errors import LabError
from app.lab import Lab
from app.panels import PANELS
from app.panels.panel import FinishedRun
from app.runs.facts import RunFacts, prompts_of
from app.views.energy import energy_by_request, request_share
from app.views.timeline import one_request, requests_over_time
from app.views.token_probabilities import token_probabilities
from app.views.waits import why_not_sooner, why_sentences
from app.words.plain import is_number, plain
from store import queries
from telemetry.rows import RequestRow, columns

WHY_HEIGHT = 900  # pixels, about
SHOWN = (
    "request",
    "group",
    "prompt_tokens",
    "output_tokens",
    "ttft_ms",
    "tpot_ms",
    "e2e_ms",
    "scheduling_delay_ms",
    "preemptions",
    "end_reason",
)


def requests_table(run: FinishedRun, figures: dict[str, Any]) -> None:
    """Draw the table; a chosen row shows what was asked and what was answered, as plain text. ``figures``: the run's
    summary.
    """
    facts = run.facts
    query = queries.requests_query(facts.run_id, text=True)
    table = query.table(run.con)
    if not table.num_rows:
        st.info("No request ended in this run.")
        return
    requests_over_time(run)
    asked = st.query_params.get("request", "")
    if asked != st.session_state.get("request-of-row"):
        st.session_state["request-behind"] = asked  # came with the address: no row chosen before it is in front
    st.caption("Choose a row to read what was asked and what was answered.")
    numbers = table["request"].to_pylist()
    key = f"requests-{facts.run_id}-{st.session_state['request-behind']}"

    def chosen_row() -> None:
        rows = (told_by(key, "selection") or {}).get("rows")
        row = str(numbers[rows[0]]) if rows and rows[0] < len(numbers) else ""
        st.session_state["request-of-row"] = row
        select(
            {name: value for name, value in selected().items() if name != "request"} | ({"request": row} if row else {})
        )

    chosen = st.dataframe(
        _shown(table),
        hide_index=True,
        key=key,
        height=320,
        on_select=chosen_row,
        selection_mode="single-row",
        column_config=_column_config(),
        alt=f"{table.num_rows} requests with their lengths and latencies",
    )
    data_row(table, query, name="requests")
    rows = chosen["selection"]["rows"]
    if not rows and is_number(asked) and int(asked) in numbers:
        st.markdown(f"**Request {asked}**")
        rows = [numbers.index(int(asked))]
        st.dataframe(
            _shown(table.slice(rows[0], 1)), hide_index=True, column_config=_column_config(), alt=f"Request {asked}"
        )
    if rows and rows[0] < table.num_rows:
        row = table.slice(rows[0], 1).to_pylist()[0]
        one_request(run, row["request"])
        why_sentences(run, row["request"])
        request_share(run, row["request"], figures)
        _texts(run.lab, facts, row)
        token_probabilities(facts, row)
        for panel in PANELS:
            if panel.is_on(facts.spec.engine):
                panel.draw_answer(run, row)
    when_seen(partial(why_not_sooner, facts), key=f"why-{facts.run_id}", height=WHY_HEIGHT)
    energy_by_request(facts.run_id, figures)


def _shown(table: pa.Table) -> pa.Table:
    """The columns of the list; times in tenths of a millisecond."""
    names = [name for name in SHOWN if name in table.column_names]
    columns = [pc.round(table[name], 1) if name.endswith("_ms") else table[name] for name in names]
    return pa.table(dict(zip(names, columns, strict=True)))


def _texts(lab: Lab, facts: RunFacts, row: dict[str, Any]) -> None:
    if row.get("error"):
        st.error(plain(row["error"]))
    try:
        prompt = prompts_of(lab.home, facts.run_id).get(row["request_id"], "")
    except LabError as error:
        prompt = error.message
    asked, answered = st.columns(2)
    with asked:
        st.markdown("**Asked**", help="The text of the request; it may have been cut or repeated to reach its length.")
        st.code(prompt or "(token ids, no text)", language=None, wrap_lines=True, height=320)
    with answered:
        st.markdown("**Answered**", help="What the model wrote.")
        st.code(row.get("text") or "(no text was kept)", language=None, wrap_lines=True, height=320)


def _column_config() -> dict[str, Any]:
    known = columns(RequestRow)
    config: dict[str, Any] = {
        name: st.column_config.Column(name.replace("_", " "), help=known[name].help) for name in SHOWN if name in known
    }
    for name in ("ttft_ms", "tpot_ms", "e2e_ms", "scheduling_delay_ms"):
        title = name.removesuffix("_ms").replace("_", " ")
        config[name] = st.column_config.NumberColumn(
            f"{title.upper() if len(title) <= 4 else title}, ms", format="localized"
        )
    return config
