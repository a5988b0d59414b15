"""A recorded run: its figures, charts, requests, iterations and settings, all from the database."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import duckdb
import numpy as np
import streamlit as st

from app import charts
from app.components.address import first_tab
from app.components.chart_card import chart_card, page_palette
from app.components.chart_links import OPENS, chart_links
from app.lab import Lab
from app.panels.kv_quantization.quality_page import capacity_figures, quality_section
from app.panels.prefix_sharing.page import prefix_section
from app.panels.speculation.page import speculation_section
from app.runs.facts import RunFacts, comparable_runs, differences
from app.views.inspector import iteration_inspector
from app.views.missing import say_waiting
from app.views.requests import requests_table
from app.views.setup import setup_tables
from app.words.charts import CHARTS
from app.words.plain import counted, milliseconds, plain
from app.words.text import PARTS, PROVENANCE
from store import queries
from store.capacity import Capacity, capacity
from store.metrics import METRICS
from store.summary import LATENCIES, LATENCY_FIGURES, latency_query, small_samples

MOST_ITERATIONS = 2000
MOST_GAPS = 6000
GHOST_GAPS = 4000
INGEST_CHECK_S = 0.5
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
        _key_figures(figures, capacity(con, facts.run_id), facts.spec.requests)
        points = {"iteration": "Iterations", "request": "Requests"}
        first = first_tab(PARTS, "Latency" if below_board else "Charts", points)
        tabs = st.tabs(
            PARTS,
            default=first,
            key=f"part-{below_board}-{first}",
        )
        with tabs[0]:
            vocab = int((row.get("model") or {}).get("vocab") or 0)
            _charts(lab, con, facts, figures, row.get("peaks"), vocab)
        with tabs[1]:
            _latency(con, facts.run_id, figures)
        with tabs[2]:
            requests_table(lab, con, facts)
        with tabs[3]:
            iteration_inspector(con, facts.run_id)
        with tabs[4]:
            quality_section(lab, con, facts)
        with tabs[5]:
            setup_tables(facts, row)


def ghost_of(lab: Lab, con: duckdb.DuckDBPyConnection, facts: RunFacts) -> charts.Ghost | None:
    """The newest earlier run of the same workload with other settings, to show behind this one."""
    others = comparable_runs(lab.home, facts, queries.runs(con))
    if not others:
        return None
    other = others[0]
    name = ", ".join(differences(other.spec.engine, facts.spec.engine)[:2])
    return charts.Ghost(name, queries.token_latencies(con, other.run_id, GHOST_GAPS), other.run_id)


def _wait_for_rows(lab: Lab, facts: RunFacts, since: float) -> None:
    with lab.database.read() as con:
        row = queries.run(con, facts.run_id)
    if (row is not None and row["state"] == facts.state) or not lab.home.run_dir(facts.run_id).is_dir():
        st.rerun()
    say_waiting(lab, [facts.run_id], since)
    st.skeleton(height=120)
    st.skeleton(height=320)


def _key_figures(figures: dict[str, Any], held: Capacity | None, asked: int) -> None:
    requests = figures.get("requests", {})
    speed = figures.get("output_tokens_per_s")
    shown = [
        ("Output tok/s", f"{speed:,.1f}" if speed else "–", "output_tokens_per_s"),
        ("First token p50", milliseconds(figures.get("ttft_ms", {}).get("p50")), "ttft_ms"),
        ("First token p99", milliseconds(figures.get("ttft_ms", {}).get("p99")), "ttft_ms"),
        ("Token gap p50", milliseconds(figures.get("itl_ms", {}).get("p50")), "itl_ms"),
        ("Token gap p99", milliseconds(figures.get("itl_ms", {}).get("p99")), "itl_ms"),
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
    for words in small_samples(figures, ("ttft_ms", "itl_ms"), (0.5, 0.99)):
        st.caption(plain(words))


def metric_help(name: str) -> str:
    """A metric's definition and where its figure comes from."""
    metric = METRICS[name]
    return f"{metric.title}: {metric.formula} {PROVENANCE[metric.provenance]}"


def _charts(
    lab: Lab,
    con: duckdb.DuckDBPyConnection,
    facts: RunFacts,
    figures: dict[str, Any],
    peaks: dict[str, float] | None,
    vocab: int,
) -> None:
    colours = page_palette()
    run_id = facts.run_id
    steps_query = queries.iterations_query(run_id, MOST_ITERATIONS)
    steps = steps_query.table(con)
    if not steps.num_rows:
        st.info("No iteration was recorded in this run, so there is nothing to draw.")
        return
    gaps_query = queries.token_latencies_query(run_id, MOST_GAPS)
    gaps = gaps_query.table(con)
    devices_query = queries.devices_query(run_id)
    devices = devices_query.table(con)
    ghost = ghost_of(lab, con, facts)

    longest = _largest(steps, "duration_ms")
    timeline = charts.iteration_timeline(steps, colours)
    words = f"{counted(steps.num_rows, 'iteration')} shown, the longest {milliseconds(longest)}."
    end = _last_moment(steps, gaps, devices, *([ghost.table] if ghost else []))
    over_time = partial(chart_card, until=end)
    over_time(CHARTS["timeline"], timeline, steps, steps_query, name="iterations", summary=words)
    log = st.session_state.get("gap-scale", "log") == "log"
    dots = charts.token_gaps(gaps, colours, ghost=ghost, log=log)
    told = stalls_in_words(figures)
    before = ""
    if ghost is not None:
        before = f" Before ({ghost.name}): {stalls_in_words(queries.summary(con, ghost.run_id) or {})}"
    over_time(
        CHARTS["itl"], dots, gaps, gaps_query, name="token-gaps", summary=told, remark=told + before, control=_gap_scale
    )
    makeup = charts.batch_makeup(steps, colours)
    words = f"At most {_largest(steps, 'prefill_tokens'):.0f} prompt tokens in an iteration."
    over_time(CHARTS["makeup"], makeup, steps, steps_query, name="batch-makeup", summary=words)
    roof_query = queries.roofline_query(run_id)
    recent = roof_query.table(con)
    roof = charts.roofline(recent, peaks, colours)
    words = f"The last {counted(recent.num_rows, 'iteration')} against the device's measured limits."
    chart_card(CHARTS["roofline"], roof, recent, roof_query, name="roofline", summary=words)
    left, right = st.columns(2)
    with left:
        queue = charts.running_and_waiting(steps, colours)
        words = f"At most {_largest(steps, 'waiting'):.0f} waiting."
        over_time(CHARTS["queue"], queue, steps, steps_query, name="queue", summary=words)
        activity = charts.device_activity(devices, colours)
        words = f"{counted(devices.num_rows, 'sample')}."
        over_time(CHARTS["device"], activity, devices, devices_query, name="device", summary=words)
    with right:
        thrown = queries.preemptions_query(run_id).table(con)
        pool = charts.kv_pool(steps, colours, thrown)
        words = f"At most {_largest(steps, 'blocks_used'):.0f} of {_largest(steps, 'blocks_total'):.0f} blocks used."
        if thrown.num_rows:
            words += f" {counted(int(np.nansum(charts.column(thrown, 'preempted'))), 'preemption')}."
        over_time(CHARTS["kv"], pool, steps, steps_query, name="kv-pool", summary=words)
        memory = charts.memory_and_power(devices, colours)
        words = f"{counted(devices.num_rows, 'sample')}."
        over_time(CHARTS["memory"], memory, devices, devices_query, name="memory", summary=words)
    prefix_section(con, facts, vocab, end)
    speculation_section(con, facts, end)
    chart_links(_open)


def _last_moment(*tables: Any) -> float:
    """The end of the time axis, in s: a little after the last thing that any of the charts draws."""
    ends = [charts.column(table, "t") for table in tables]
    return 1.02 * max((float(np.nanmax(t)) for t in ends if np.isfinite(t).any()), default=1.0)


def _open(target: dict[str, str]) -> None:
    """Turn the page to the iteration or request that was clicked."""
    for name in OPENS:
        st.query_params.pop(name, None)
    st.query_params.update(target)


def _gap_scale() -> None:
    st.segmented_control(
        "Scale of the gaps",
        ["log", "linear"],
        default="log",
        key="gap-scale",
        label_visibility="collapsed",
        required=True,
    )


def stalls_in_words(figures: dict[str, Any]) -> str:
    """The stalls of a run's summary, as a sentence."""
    gaps = figures.get("itl_ms") or {}
    if gaps.get("max") is None:
        return "No gap between tokens was recorded."
    return f"{counted(figures['stalls'], 'stall')}, longest gap {milliseconds(gaps['max'])}."


def _latency(con: duckdb.DuckDBPyConnection, run_id: str, figures: dict[str, Any]) -> None:
    rows = [
        {
            "": METRICS[name].title,
            **{share: _tenths(figures.get(name, {}).get(share)) for share in LATENCY_FIGURES},
            "samples": figures.get(name, {}).get("count"),
        }
        for name in LATENCIES
    ]
    st.dataframe(
        rows,
        hide_index=True,
        height="content",
        column_config={
            share: st.column_config.NumberColumn(f"{share}, ms", format="localized") for share in LATENCY_FIGURES
        },
        alt="Latency in ms: " + "; ".join(f"{row['']} p50 {row['p50']}, p99 {row['p99']}" for row in rows),
    )
    for words in small_samples(figures):
        st.caption(plain(words))
    st.caption(plain(SYMBOLS))
    for name in LATENCIES:
        st.caption(plain(metric_help(name)))
    with st.expander("SQL"):
        for name in LATENCIES:
            st.code(latency_query(run_id, name).sql, language="sql", wrap_lines=True)


def _tenths(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _largest(table: Any, name: str) -> float:
    values = charts.column(table, name)
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
