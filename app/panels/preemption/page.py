"""What preemption did in a run that had it on: shown below the run's other charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st

from app.charts.frame import column
from app.components.chart_card import chart_card, page_palette
from app.errors import LabError
from app.home import Home
from app.panels.panel import FinishedRun
from app.panels.preemption import charts
from app.panels.preemption.tables import swaps_table
from app.panels.preemption.words import CHARTS
from app.runs.folder import read_spec
from app.words.plain import counted
from engine.config import RequestSpec
from store import link_fit, swaps


def preemption_section(run: FinishedRun) -> None:
    """Draw the section of a run that had preemption on."""
    con, run_id, colours = run.con, run.facts.run_id, page_palette()
    st.subheader("KV swapping", anchor=False)
    totals = swaps.totals_query(run_id).rows(con)
    st.caption(totals_in_words(totals))
    if totals:
        table = swaps_table(totals)
        st.dataframe(
            [dict(zip(table.heads, cells, strict=True)) for cells in table.cells()],
            hide_index=True,
            alt=totals_in_words(totals),
        )
    query = swaps.swaps_query(run_id)
    moved = query.table(con)
    left, right = st.columns(2)
    with left:
        waits_query = swaps.waits_query(run_id)
        waits = waits_query.table(con)
        words = waits_in_words(waits)
        figure = charts.waits(waits, colours)
        chart_card(
            CHARTS["swap-waits"], figure, waits, waits_query, name="swap-waits", summary=words, remark=words,
            until=run.until_s,
        )  # fmt: skip
        words = f"{counted(moved.num_rows, 'swap')} with copies."
        figure = charts.copies(moved, colours, run_id)
        chart_card(CHARTS["swap-copies"], figure, moved, query, name="swap-copies", summary=words, until=run.until_s)
    fit = link_of(moved)
    costs = swaps.costs_of(moved, swaps.prompt_rate_query(run_id).one(con), run.row.get("model") or {})
    with right:
        words = link_in_words(fit)
        figure = charts.bandwidth(moved, fit, colours, run_id)
        chart_card(CHARTS["swap-bandwidth"], figure, moved, query, name="swap-bandwidth", summary=words, remark=words)
        words = crossover_in_words(costs)
        figure = charts.crossover(moved, costs, colours, run_id)
        chart_card(CHARTS["swap-crossover"], figure, moved, query, name="swap-crossover", summary=words, remark=words)
    requests, sessions = _sessions(run.lab.home, run_id)
    spread_query = swaps.spread_query(run_id, requests, sessions)
    spread = spread_query.table(con)
    words = spread_in_words(spread)
    figure = charts.spread(spread, colours)
    chart_card(CHARTS["swap-spread"], figure, spread, spread_query, name="swap-spread", summary=words, remark=words)


@lru_cache(maxsize=4)
def _sessions(home: Home, run_id: str) -> tuple[list[int], list[int]]:
    """``sessions_of`` a run, whose spec never changes; nobody where it cannot be read."""
    try:
        return sessions_of(read_spec(home.existing_run_dir(run_id)).requests)
    except LabError:
        return [], []


def sessions_of(asked: Sequence[RequestSpec]) -> tuple[list[int], list[int]]:
    """Numbers of requests and of their sessions: a request and those that come after it are one."""
    place = {spec.request_id: number for number, spec in enumerate(asked)}
    sessions = []
    for number, spec in enumerate(asked):
        seen = {number}
        while spec.after in place and place[spec.after] not in seen:
            seen.add(place[spec.after])
            spec = asked[place[spec.after]]
        sessions.append(place[spec.request_id])
    return list(range(len(sessions))), sessions


def link_of(moved: pa.Table) -> link_fit.LinkFit | None:
    return link_fit.fit_link(column(moved, "copies"), column(moved, "bytes"), column(moved, "copying_ms") / 1e3)


def totals_in_words(totals: list[dict[str, Any]]) -> str:
    by = {row["direction"]: row for row in totals}
    if not by:
        return "No request had to be swapped to host memory."
    waited = sum(row["waited_ms"] for row in totals)
    moved = sum(row["bytes"] for row in totals)
    out, back, ahead = (by.get(name, {}).get("swaps", 0) for name in charts.DIRECTIONS)
    return (
        f"{counted(out, 'request')} swapped out, {back:,} back in, {counted(ahead, 'copy', 'copies')} made ahead: "
        f"{moved / 1e6:,.1f} MB in {counted(sum(row['copies'] for row in totals), 'copy', 'copies')}. "
        f"The engine stood still for {waited:,.1f} ms of it."
    )


def waits_in_words(waits: pa.Table) -> str:
    waiting, computing = float(np.nansum(column(waits, "wait_ms"))), float(np.nansum(column(waits, "compute_ms")))
    if not waiting + computing:
        return charts.NOTHING
    return f"{100 * waiting / (waiting + computing):.2f} % of the time in steps was spent waiting for copies."


def link_in_words(fit: link_fit.LinkFit | None) -> str:
    if fit is None:
        return "Too few swaps to fit a line."
    rate = f"{fit.bytes_per_s / 1e9:,.2f} GB/s" if math.isfinite(fit.bytes_per_s) else "larger copies took no longer"
    return f"Fitted: {fit.launch_s * 1e6:,.2f} µs to begin a copy, {rate}."


def crossover_in_words(costs: swaps.Costs | None) -> str:
    if costs is None:
        return "Too few swaps or prompt steps to predict from."
    crossing = costs.crossover_tokens()
    if crossing <= 0:
        times = costs.recompute_s(256) / costs.swap_s(256)
        return f"Predicted: swapping is cheaper at every length, by {times:,.1f} times at 256 tokens."
    return f"Predicted: computing again is cheaper below {crossing:,.0f} tokens, swapping above."


def spread_in_words(spread: pa.Table) -> str:
    of_tpot, of_ttft = swaps.jain(column(spread, "tpot_ms").tolist()), swaps.jain(column(spread, "ttft_ms").tolist())
    if np.isnan(of_tpot):
        return "No session to compare."
    return f"Jain's index over {counted(spread.num_rows, 'session')}: {of_tpot:.3f} of TPOT, {of_ttft:.3f} of TTFT."
