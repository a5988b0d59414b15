"""Why not sooner: what requests waited for and because of whom, over the run and of one request."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyarrow as pa
import streamlit as st

from app.charts.waits import time_by_group
from app.components.chart_card import chart_card, data_row, page_palette
from app.lab import get_lab
from app.panels.panel import FinishedRun
from app.panels.why import why_not_sooner as why_of
from app.runs.facts import RunFacts
from app.words.plain import milliseconds, plain
from app.words.waits import CHARTS, GAPS, WAITS
from store import waits
from store.query import Query

MOST_BLAMED = 12


@lru_cache(maxsize=16)
def _answer(run_id: str, what: str) -> pa.Table:
    """What the whole run waited for (``waits``), what passed between its tokens (``gaps``) or who held up others
    (``blame``). Kept: the run is over, and of ten million slices each takes a second.
    """
    with get_lab().database.read() as con:
        return _query(run_id, what).table(con)


def _query(run_id: str, what: str) -> Query:
    match what:
        case "waits":
            return waits.waits_by_group_query(run_id)
        case "gaps":
            return waits.gaps_by_group_query(run_id)
        case _:
            return waits.blame_query(run_id, limit=MOST_BLAMED)


def why_not_sooner(facts: RunFacts) -> None:
    """Draw the part of the whole run."""
    run_id = facts.run_id
    query, table = _query(run_id, "waits"), _answer(run_id, "waits")
    if not table.num_rows:
        return
    figure = time_by_group(table, WAITS, page_palette(), per="requests", what="mean wait of a request, ms")
    chart_card(CHARTS["waits"], figure, table, query, name="waits", summary=_waited(table.to_pylist()))
    if facts.spec.engine.recording != "full":
        st.caption(
            "What passed between tokens, who held up whom, and the time after a preemption need the recording *full*; "
            f"this run has *{facts.spec.engine.recording}*."
        )
        return
    query, table = _query(run_id, "gaps"), _answer(run_id, "gaps")
    figure = time_by_group(table, GAPS, page_palette(), per="gaps", what="mean time between two tokens, ms")
    chart_card(CHARTS["gaps"], figure, table, query, name="gaps", summary="")
    _blamed(run_id)


def _waited(groups: list[dict[str, Any]]) -> str:
    return " ".join(
        f"{row['group'] or 'All requests'}: {milliseconds(row['waited_ms'] / row['requests'])} each, "
        f"at most {milliseconds(row['longest_ms'])} (request {row['longest']})."
        for row in groups
    )


def _blamed(run_id: str) -> None:
    query, table = _query(run_id, "blame"), _answer(run_id, "blame")
    if not table.num_rows:
        return
    with st.expander("Because of whom"):
        st.caption(
            "The time that others waited, shared out to the requests the engine computed for meanwhile: by tokens of "
            "the budget, by KV memory held, by places, or by the prompt that others waited to share."
        )
        st.dataframe(
            [
                {
                    "request": row["request"],
                    "name": row["request_id"],
                    "group": row["group"],
                    "held up others, ms": round(row["held_up_ms"], 1),
                    "iterations": row["iterations"],
                    "mostly for want of": WAITS.get(row["mostly_for"], row["mostly_for"]),
                }
                for row in table.to_pylist()
            ],
            hide_index=True,
            alt=f"{table.num_rows} requests that held others up most",
        )
        data_row(table, query, name="blame")


def why_sentences(run: FinishedRun, request: int) -> None:
    """Draw the part of one request."""
    told = why_of(run.con, run.facts.run_id, request)
    st.markdown("**Why not sooner**")
    st.markdown("\n".join("- " + plain(sentence) for sentence in told["says"]))
    with st.expander("Its longest waits and gaps"):
        st.markdown("\n".join("- " + plain(sentence) for sentence in told["details"]))
