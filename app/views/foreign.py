"""A run that watches another engine, while it goes on and afterwards: what the engine tells, and what it does not."""

from __future__ import annotations

from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import streamlit as st

from app import charts
from app.charts import foreign as foreign_charts
from app.components.chart_card import chart_card, page_palette
from app.lab import Lab
from app.runs.facts import RunFacts
from app.views.experiments import take_away
from app.words.charts import CHARTS
from app.words.foreign import (
    FOREIGN_CHARTS,
    WHAT_A_REPORT_IS,
    WHAT_IT_IS,
    WHAT_SPANS_ADD,
    figure_in_words,
    not_told_in_words,
    peer_in_words,
    report_in_words,
)
from app.words.plain import counted, plain
from store import foreign, queries
from store.metrics import METRICS
from store.summary import LATENCIES, LATENCY_FIGURES, latency_query, small_samples, summary

LOOK_S = 2.0
OF_SPANS = ("scheduling_delay_ms", "ttft_ms", "tpot_ms", "e2e_ms")
RATES = {"prompt tokens": "prompt_tokens", "output tokens": "output_tokens", "from the cache": "cached_tokens"}


def foreign_run(lab: Lab, facts: RunFacts) -> None:
    """Draw it; while it goes on, anew every few seconds."""
    if facts.is_final:
        _figures(lab, facts)
        take_away(lab, facts.run_id, None)
    else:
        st.fragment(_figures, run_every=LOOK_S)(lab, facts)


def reported_run(lab: Lab, facts: RunFacts) -> None:
    """A load generator's report: its figures, by the clock of its client."""
    st.caption(plain(WHAT_A_REPORT_IS))
    with lab.database.read() as con:
        figures = summary(con, facts.run_id) or {}
        peers = foreign.peers_query(facts.run_id).rows(con)
    _latencies({name: figures.get(name, {}) for name in LATENCIES}, "Latencies of the report in ms")
    rate = figures.get("output_tokens_per_s")
    if rate is not None:
        st.metric("Output tok/s", f"{rate:,.1f}", help="As the report says.", border=True, width="content")
    for peer in peers:
        st.caption(plain(report_in_words(peer, figures)))
    st.page_link("pages/runs.py", label="Set it beside other runs", icon=":material/list:", width="content")


def _figures(lab: Lab, facts: RunFacts) -> None:
    with lab.database.read() as con:
        told = foreign.told(con, facts.run_id)
        requests = foreign.requests_query(facts.run_id).table(con)
        st.caption(plain(WHAT_SPANS_ADD if requests.num_rows else WHAT_IT_IS))
        if not told:
            st.info("Nothing has been read yet.", icon=":material/hourglass_top:")
            return
        _now(told)
        _charts(con, facts.run_id, {entry["name"] for entry in told})
        if requests.num_rows:
            _requests(con, facts.run_id, requests)
        _table(con, facts.run_id, told)


def _latencies(figures: dict[str, dict[str, Any]], alt: str) -> None:
    """A row for each latency that has figures. ``figures``: metric -> its percentiles and samples."""
    rows = [
        {
            "": METRICS[name].title,
            **{share: of.get(share) for share in LATENCY_FIGURES},
            "samples": of.get("count") or None,
        }
        for name, of in figures.items()
        if any(of.get(share) is not None for share in LATENCY_FIGURES)
    ]
    shown = {share: st.column_config.NumberColumn(f"{share}, ms", format="localized") for share in LATENCY_FIGURES}
    st.dataframe(rows, hide_index=True, height="content", column_config=shown, alt=alt)


def _requests(con: duckdb.DuckDBPyConnection, run_id: str, table: pa.Table) -> None:
    """What spans told of single requests."""
    chart_card(
        FOREIGN_CHARTS["foreign-latencies"],
        partial(foreign_charts.latencies_of_requests, table, page_palette()),
        table,
        foreign.requests_query(run_id),
        name="foreign-latencies",
        summary=f"{counted(table.num_rows, 'request')}.",
    )
    figures = {name: latency_query(run_id, name).rows(con)[0] for name in OF_SPANS}
    _latencies(figures, "Latencies of the engine's requests in ms")
    st.caption(plain(" ".join(small_samples(figures, OF_SPANS))))


def _now(told: list[dict[str, object]]) -> None:
    by_name = {entry["name"]: entry for entry in told if entry["source"] == "metrics"}
    with st.container(horizontal=True, key="foreign-now"):
        for name, label in (("running", "Running"), ("waiting", "Waiting"), ("kv_used_share", "KV pool in use")):
            if name in by_name:
                last = float(str(by_name[name]["last"]))
                shown = f"{last:.1%}" if name == "kv_used_share" else f"{last:,.0f}"
                st.metric(label, shown, help="As the engine said at the last reading.", border=True, width="content")
        for name, label in (("output_tokens", "Output tokens"), ("requests_done", "Requests done")):
            if name in by_name:
                value = float(str(by_name[name]["value"]))
                st.metric(label, f"{value:,.0f}", help="Since watching began.", border=True, width="content")


def _charts(con: duckdb.DuckDBPyConnection, run_id: str, names: set[str]) -> None:
    colours = page_palette()
    running, waiting = (foreign.series_query(run_id, name) for name in ("running", "waiting"))
    running_table = running.table(con)
    chart_card(
        FOREIGN_CHARTS["foreign-requests"],
        partial(foreign_charts.requests_in_engine, running_table, waiting.table(con), colours),
        running_table,
        running,
        name="foreign-requests",
        summary=f"{counted(running_table.num_rows, 'reading')}.",
        first=True,
    )
    rates = {label: foreign.series_query(run_id, name) for label, name in RATES.items()}
    tables = {label: query.table(con) for label, query in rates.items()}
    chart_card(
        FOREIGN_CHARTS["foreign-tokens"],
        partial(foreign_charts.tokens_per_second, tables, colours),
        tables["output tokens"],
        rates["output tokens"],
        name="foreign-tokens",
        summary=f"{counted(tables['output tokens'].num_rows, 'reading')}.",
    )
    cache = foreign.series_query(run_id, "kv_used_share")
    table = cache.table(con)
    chart_card(
        FOREIGN_CHARTS["foreign-cache"],
        partial(foreign_charts.cache_use, table, colours),
        table,
        cache,
        name="foreign-cache",
        summary=f"{counted(table.num_rows, 'reading')}.",
    )
    if "forward_s" in names:
        passes = foreign.passes_query(run_id)
        table = passes.table(con)
        chart_card(
            FOREIGN_CHARTS["foreign-passes"],
            partial(foreign_charts.forward_passes, table, colours),
            table,
            passes,
            name="foreign-passes",
            summary=f"{counted(table.num_rows, 'pass', 'passes')}.",
        )
    devices = queries.devices_query(run_id)
    table = devices.table(con)
    if table.num_rows:
        activity = partial(charts.device_activity, table, colours)
        words = f"{counted(table.num_rows, 'sample')} of this machine's counters."
        chart_card(CHARTS["device"], activity, table, devices, name="device-activity", summary=words)


def _table(con: duckdb.DuckDBPyConnection, run_id: str, told: list[dict[str, object]]) -> None:
    rows = []
    for entry in told:
        said, source = figure_in_words(entry)
        rows.append({"figure": entry["title"], "since watching began": said, "read from": source})
    st.dataframe(rows, hide_index=True, height="content", alt="What the engine told since watching began")
    missing = foreign.not_told(con, run_id)
    if missing:
        st.caption(plain(not_told_in_words(missing)))
    for peer in foreign.peers_query(run_id).rows(con):
        st.caption(plain(peer_in_words(peer)))
