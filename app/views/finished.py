"""A recorded run: its figures, charts, requests, iterations and settings, all from the database."""

from __future__ import annotations

import time
from typing import Any

import duckdb
import streamlit as st

from app.components.selection import follow_selection, remember, turned_tab
from app.lab import Lab
from app.panels import PANELS
from app.panels.panel import FinishedRun
from app.runs.facts import RunFacts
from app.runs.latencies import ALL, latency_rows
from app.views.experiments import take_away
from app.views.finished_charts import finished_charts
from app.views.inspector import iteration_inspector
from app.views.missing import say_waiting
from app.views.pair import BESIDE, with_and_without
from app.views.pool_map import kv_map
from app.views.pool_room import capacity_figures
from app.views.requests import requests_table
from app.views.selection import say_what_is_not_there
from app.views.setup import setup_tables
from app.views.step_cost import explained_run
from app.words.glossary import spelled_out
from app.words.plain import milliseconds, plain
from app.words.text import PARTS, PROVENANCE, number
from store import queries
from store.metrics import METRICS
from store.pool_room import PoolRoom, pool_room
from store.samples import objective_figures
from store.slo import PRESETS
from store.summary import LATENCY_FIGURES, latencies_of, latency_query, small_samples

INGEST_CHECK_S = 0.5
POINTS = {"iteration": "Iterations", "request": "Requests", "block": "KV cache"}
"""Parts of the selection, and the tabs that show them."""
SYMBOLS = (
    "Of one request: a is its arrival, f its first token, t_1 to t_n the moments its tokens came, c its completion."
)


def finished_run(lab: Lab, facts: RunFacts, *, below_board: bool) -> None:
    """Draw everything there is about a run that is over; ``below_board``: its charts are on the page already."""
    with lab.database.read() as con:
        row = queries.run(con, facts.run_id)
        if row is None or row["state"] != facts.state:
            st.fragment(_wait_for_rows, run_every=INGEST_CHECK_S)(lab, facts, time.monotonic())
            return
        if row.get("problem"):
            st.warning(plain(row["problem"]), icon=":material/warning:")
        figures = queries.summary(con, facts.run_id) or {}
        _key_figures(figures, pool_room(con, facts.run_id), facts.spec.requests)
    st.fragment(_parts)(lab, facts, row, figures, below_board)


def _parts(lab: Lab, facts: RunFacts, row: dict[str, Any], figures: dict[str, Any], below_board: bool) -> None:
    """The run's tabs, of which the open one is drawn. ``row``, ``figures``: what the database knows of the run, which
    is over and does not change.
    """
    if st.query_params.get("run", facts.run_id) != facts.run_id:
        st.rerun()  # a mark of another run was clicked
    if not lab.home.run_dir(facts.run_id).is_dir():
        st.rerun()  # deleted meanwhile
    usual = PARTS[0] if BESIDE in st.query_params else "Latency" if below_board else "Charts"
    turn = turned_tab(PARTS, usual, POINTS)
    follow_selection()
    with lab.database.read() as con:
        run = FinishedRun(lab, con, facts, row)
        say_what_is_not_there(run)
        tabs = st.tabs(PARTS, default=turn.tab, key=f"part-{below_board}-{turn.tab}-{turn.times}", on_change="rerun")
        part = next((part for part, tab in zip(PARTS, tabs, strict=True) if tab.open), turn.tab)
        remember(part)
        with tabs[PARTS.index(part)]:
            _part(part, run, figures)


def _part(part: str, run: FinishedRun, figures: dict[str, Any]) -> None:
    con, run_id = run.con, run.facts.run_id
    match part:
        case "With and without":
            with_and_without(run)
        case "Charts":
            finished_charts(run, figures)
        case "Latency":
            _latency(con, run_id, figures)
            _objective(con, run_id)
        case "Requests":
            requests_table(run, figures)
        case "Iterations":
            iteration_inspector(run)
        case "Explained":
            explained_run(con, run_id, run.row)
        case "KV cache":
            kv_map(run)
            for panel in PANELS:
                panel.draw_cache(run)
        case _:
            setup_tables(run.facts, run.row)
            take_away(run.lab, run_id, None)


def _wait_for_rows(lab: Lab, facts: RunFacts, since: float) -> None:
    with lab.database.read() as con:
        row = queries.run(con, facts.run_id)
    if (row is not None and row["state"] == facts.state) or not lab.home.run_dir(facts.run_id).is_dir():
        st.rerun()
    say_waiting(lab, [facts.run_id], since)
    st.skeleton(height=120)
    st.skeleton(height=320)


def _key_figures(figures: dict[str, Any], held: PoolRoom | None, asked: int) -> None:
    requests = figures.get("requests", {})
    speed, steady = figures.get("output_tokens_per_s"), figures.get("output_tokens_per_s_steady")
    shown = [
        ("Output tok/s", f"{speed:,.1f}" if speed else "–", "output_tokens_per_s"),
        *([("Steady tok/s", f"{steady:,.1f}", "output_tokens_per_s_steady")] if steady else []),
        ("TTFT p50", milliseconds(figures.get("ttft_ms", {}).get("p50")), "ttft_ms"),
        ("TTFT p99", milliseconds(figures.get("ttft_ms", {}).get("p99")), "ttft_ms"),
        ("ITL p50", milliseconds(figures.get("itl_ms", {}).get("p50")), "itl_ms"),
        ("ITL p99", milliseconds(figures.get("itl_ms", {}).get("p99")), "itl_ms"),
    ]
    with st.container(horizontal=True, key="figures"):
        for label, value, metric in shown:
            st.metric(label, value, help=metric_help(metric), border=True, width="content")
        done = f"{requests.get('finished', 0)} of {requests.get('total') or asked}"
        st.metric(
            "Requests done", done, help=f"Finished of asked. {PROVENANCE['measured']}", border=True, width="content"
        )
        if held is not None:
            for label, value, words in capacity_figures(held):
                st.metric(label, value, help=words, border=True, width="content")
    st.caption(plain(spelled_out("TTFT", "ITL", "Max concurrent requests")))
    for words in small_samples(figures, ("ttft_ms", "itl_ms"), (0.5, 0.99)):
        st.caption(plain(words))


def metric_help(name: str) -> str:
    """A metric's definition and where its figure comes from."""
    metric = METRICS[name]
    return f"{metric.title}: {metric.formula} {PROVENANCE[metric.provenance]}"


def _latency(con: duckdb.DuckDBPyConnection, run_id: str, figures: dict[str, Any]) -> None:
    told = latency_rows(figures)
    names = latencies_of(figures)
    grouped = any(row.group != ALL for row in told)
    rows = [
        {
            **({"requests": row.group} if grouped else {}),
            "": row.title,
            **{share: _tenths(row.figures.get(share)) for share in LATENCY_FIGURES},
            "samples": row.figures.get("count"),
        }
        for row in told
    ]
    st.dataframe(
        rows,
        hide_index=True,
        height="content",
        column_config={
            share: st.column_config.NumberColumn(f"{share}, ms", format="localized") for share in LATENCY_FIGURES
        },
        alt="Latency in ms: "
        + "; ".join(f"{row['']} p50 {row['p50']}, p99 {row['p99']}" for row in rows[: len(names)]),
    )
    for words in small_samples(figures):
        st.caption(plain(words))
    st.caption(plain(SYMBOLS))
    for name in names:
        st.caption(plain(metric_help(name)))
    with st.expander("SQL"):
        for name in names:
            st.code(latency_query(run_id, name, by_group=grouped).sql, language="sql", wrap_lines=True)


def _objective(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """How the run met an objective that the reader chooses."""
    name = st.selectbox(
        "Objective (SLO)",
        list(PRESETS),
        format_func=lambda name: f"{name}: {PRESETS[name].words}",
        key="run-slo",
        help="What counts as served in time. strict and relaxed are multiples of what a request alone on this machine "
        "would see; the others are DistServe's, for large models on large GPUs.",
    )
    told = objective_figures(con, run_id, PRESETS[name])
    with st.container(horizontal=True):
        share, rate = told["attainment"], told["in_time_per_s"]
        shown = "–" if share is None else f"{share:.1%}"
        st.metric("SLO attainment", shown, help=metric_help("slo_attainment"), border=True, width="content")
        shown = "–" if rate is None else f"{number(rate)} requests/s"
        st.metric("Goodput", shown, help=metric_help("in_time_per_s"), border=True, width="content")


def _tenths(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
