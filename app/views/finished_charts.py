"""The charts of a recorded run: those that every run has, then what each technique that was on draws."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import streamlit as st

from app import charts
from app.charts.energy import energy_over_time
from app.components.chart_card import chart_card, page_palette
from app.components.chart_links import chart_links
from app.components.when_seen import once_idle
from app.lab import Lab
from app.panels import PANELS
from app.panels.panel import FinishedRun
from app.runs.facts import RunFacts, comparable_runs, told_apart
from app.theme import Palette
from app.words.charts import CHARTS
from app.words.disturbed import disturbed_in_words
from app.words.energy import CHARTS as ENERGY_CHARTS
from app.words.energy import run_energy_in_words
from app.words.plain import counted, milliseconds
from store import queries
from store.energy import energy_over_time_query
from store.machine import disturbed_stretches
from store.query import Query

MOST_ITERATIONS = 2000
MOST_GAPS = 3000
GHOST_GAPS = 1500
FURTHER = 2400  # pixels that the charts below the first take, about


@dataclass(frozen=True)
class _Asked:
    """A question to the database with its answer."""

    query: Query
    table: pa.Table

    @classmethod
    def of(cls, query: Query, con: duckdb.DuckDBPyConnection) -> _Asked:
        return cls(query, query.table(con))


class _Charts:
    """The charts of one run, while they are drawn."""

    def __init__(self, run: FinishedRun, figures: dict[str, Any], steps: _Asked) -> None:
        con, run_id = run.con, run.facts.run_id
        self.run, self.figures, self.steps = run, figures, steps
        self.colours: Palette = page_palette()
        self.gaps = _Asked.of(queries.token_latencies_query(run_id, MOST_GAPS), con)
        self.devices = _Asked.of(queries.devices_query(run_id), con)
        self.ghost = ghost_of(run.lab, con, run.facts)
        self.over_time = partial(chart_card, until=self.end_s)

    def with_cursor(self, con: duckdb.DuckDBPyConnection) -> _Charts:
        """The same charts, drawn later: with another cursor, and in the colours the reader has by then."""
        later = copy(self)
        later.run, later.colours = replace(self.run, con=con), page_palette()
        return later

    @cached_property
    def end_s(self) -> float:
        """The end of the time axis: a little after the last thing that any of the charts draws."""
        drawn = [self.steps.table, self.gaps.table, self.devices.table, *([self.ghost.table] if self.ghost else [])]
        ends = [charts.column(table, "t") for table in drawn]
        return 1.02 * max((float(np.nanmax(t)) for t in ends if np.isfinite(t).any()), default=1.0)

    def iterations(self) -> None:
        steps = self.steps.table
        figure = partial(charts.iteration_timeline, steps, self.colours)
        longest = milliseconds(_largest(steps, "duration_ms"))
        words = f"{counted(steps.num_rows, 'iteration')} shown, the longest {longest}."
        self.over_time(
            CHARTS["timeline"],
            figure,
            steps,
            self.steps.query,
            name="iterations",
            summary=words,
            first=True,
            height=charts.TALL,
        )

    def token_gaps(self) -> None:
        log = st.session_state.get("gap-scale", "log") == "log"
        figure = partial(charts.token_gaps, self.gaps.table, self.colours, ghost=self.ghost, log=log)
        told = stalls_in_words(self.figures)
        before = ""
        if self.ghost is not None:
            earlier = queries.summary(self.run.con, self.ghost.run_id) or {}
            before = f" Before ({self.ghost.name}): {stalls_in_words(earlier)}"
        self.over_time(
            CHARTS["itl"],
            figure,
            self.gaps.table,
            self.gaps.query,
            name="token-gaps",
            summary=told,
            remark=told + before,
            control=_gap_scale,
            height=charts.TALL,
        )

    def makeup(self) -> None:
        steps = self.steps.table
        figure = partial(charts.batch_makeup, steps, self.colours)
        words = f"At most {_largest(steps, 'prefill_tokens'):.0f} prompt tokens in an iteration."
        self.over_time(CHARTS["makeup"], figure, steps, self.steps.query, name="batch-makeup", summary=words)

    def roofline(self) -> None:
        recent = _Asked.of(queries.roofline_query(self.run.facts.run_id), self.run.con)
        figure = partial(charts.roofline, recent.table, self.run.row.get("peaks"), self.colours)
        words = f"The last {counted(recent.table.num_rows, 'iteration')} against the device's measured limits."
        chart_card(
            CHARTS["roofline"],
            figure,
            recent.table,
            recent.query,
            name="roofline",
            summary=words,
            height=charts.TALL,
        )

    def queue(self) -> None:
        steps = self.steps.table
        figure = partial(charts.running_and_waiting, steps, self.colours)
        words = f"At most {_largest(steps, 'waiting'):.0f} waiting."
        self.over_time(CHARTS["queue"], figure, steps, self.steps.query, name="queue", summary=words)

    def pool(self) -> None:
        steps = self.steps.table
        preempted = queries.preemptions_query(self.run.facts.run_id).table(self.run.con)
        figure = partial(charts.kv_pool, steps, self.colours, preempted)
        words = f"At most {_largest(steps, 'blocks_used'):.0f} of {_largest(steps, 'blocks_total'):.0f} blocks used."
        if preempted.num_rows:
            words += f" {counted(int(np.nansum(charts.column(preempted, 'preempted'))), 'preemption')}."
        self.over_time(CHARTS["kv"], figure, steps, self.steps.query, name="kv-pool", summary=words)

    def device(self) -> None:
        samples, words = self.devices.table, f"{counted(self.devices.table.num_rows, 'sample')}."
        disturbed = disturbed_stretches(self.run.con, self.run.facts.run_id)
        figure = partial(charts.device_activity, samples, self.colours, disturbed)
        words = f"{words} {disturbed_in_words(disturbed)}".rstrip()
        self.over_time(CHARTS["device"], figure, samples, self.devices.query, name="device", summary=words)

    def memory(self) -> None:
        samples, words = self.devices.table, f"{counted(self.devices.table.num_rows, 'sample')}."
        figure = partial(charts.memory_and_power, samples, self.colours)
        self.over_time(CHARTS["memory"], figure, samples, self.devices.query, name="memory", summary=words)

    def energy(self) -> None:
        """Where the device has a counter of it."""
        if self.figures.get("energy_j") is None:
            return
        told = _Asked.of(energy_over_time_query(self.run.facts.run_id), self.run.con)
        figure = partial(energy_over_time, told.table, self.colours)
        words = run_energy_in_words(self.figures)
        self.over_time(
            ENERGY_CHARTS["energy"], figure, told.table, told.query, name="energy", summary=words, remark=words
        )


def finished_charts(run: FinishedRun, figures: dict[str, Any]) -> None:
    """Draw them all. ``figures``: the run's summary."""
    steps = _Asked.of(queries.iterations_query(run.facts.run_id, MOST_ITERATIONS), run.con)
    if not steps.table.num_rows:
        st.info("No iteration was recorded in this run, so there is nothing to draw.")
        return
    drawn = _Charts(run, figures, steps)
    drawn.iterations()
    once_idle(partial(_further, drawn), key=f"further-{run.facts.run_id}", height=FURTHER, rank=1)
    chart_links()


def _further(first: _Charts) -> None:
    """The charts below the first: what a reader scrolls to does not keep the first from being seen."""
    with first.run.lab.database.read() as con:
        drawn = first.with_cursor(con)
        for draw in (drawn.token_gaps, drawn.makeup, drawn.roofline):
            draw()
        left, right = st.columns(2)
        with left:
            drawn.queue()
            drawn.device()
        with right:
            drawn.pool()
            drawn.memory()
        drawn.energy()
        for panel in PANELS:
            if panel.is_on(drawn.run.facts.spec.engine):
                panel.draw_charts(replace(drawn.run, until_s=drawn.end_s))


def ghost_of(lab: Lab, con: duckdb.DuckDBPyConnection, facts: RunFacts) -> charts.Ghost | None:
    """The newest earlier run of the same workload with other settings, to show behind this one."""
    others = comparable_runs(lab.home, facts, queries.runs(con))
    if not others:
        return None
    other = others[0]
    name = ", ".join(told_apart(other, facts)[:2]) or other.run_id
    return charts.Ghost(name, queries.token_latencies(con, other.run_id, GHOST_GAPS), other.run_id)


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


def _largest(table: Any, name: str) -> float:
    values = charts.column(table, name)
    return float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
