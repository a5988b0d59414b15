"""A run with and without: beside another of the same requests, with what should come out, and a button that makes it
sure.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import streamlit as st

from app.charts.comparison import TIMELINE_POINTS, timelines
from app.components.chart_card import chart_card, page_palette
from app.components.result_table import result_table
from app.errors import LabError
from app.experiments.file import create_experiment
from app.experiments.pair import in_order, pair_result, pair_table, sides_of
from app.experiments.repeats import repeats_of
from app.experiments.stop_rule import FIGURES, MOST, WIDTH
from app.lab import Lab, get_lab
from app.panels.panel import FinishedRun
from app.rights import Right, offered_with
from app.runs.facts import RunFacts, comparable_runs, load_run
from app.views.expected import expected_lines
from app.views.points import iteration_of
from app.words.charts import ChartWords
from app.words.plain import clock, plain
from scenarios import ScenarioError, load
from store import queries
from store.plan import StopRule
from store.side_by_side import ALIGNED, aligned
from store.statistics import STATISTICS
from telemetry.refusal import in_words

BESIDE = "beside"
"""The parameter of the address that names the run to set beside the shown one."""
TIMELINES = ChartWords(
    "Iterations of both runs",
    "A high step kept everybody waiting. The runs are aligned by time, by iteration, or by the output tokens they had "
    "given out; zooming one zooms the other. A click opens the iteration.",
    "iteration",
    ("start_ns", "end_ns"),
)


def with_and_without(run: FinishedRun) -> None:
    """Draw the pair; where no other run of these requests is there, what would make one."""
    others = partners(run)
    if not others:
        st.info(
            "No other run of these requests is here yet. **Run again** at the top of the page serves the same "
            "requests with one "
            "switch turned; this tab then shows both runs side by side."
        )
        return
    other = _chosen(others)
    before, after = in_order(run.facts, other)
    result = draw_pair(before.run_id, after.run_id)
    st.page_link(
        "pages/compare.py",
        label="Step by step: where the schedules part, request by request",
        icon=":material/compare_arrows:",
        query_params={"run": before.run_id, BESIDE: after.run_id},
    )
    _repeat(run.lab, before, result)


def draw_pair(before_id: str, after_id: str) -> dict[str, Any]:
    """Draw what should come out, the figures and the iterations of two runs; returns ``pair_result``."""
    result = pair_of_runs(before_id, after_id)
    _expected(result)
    _figures(result)
    _timelines(result)
    return result


def partners(run: FinishedRun) -> list[RunFacts]:
    """Finished runs of the same requests with other settings: the one that the address names first, then the newest."""
    known = comparable_runs(run.lab.home, run.facts, queries.runs(run.con), also_later=True)
    asked = st.query_params.get(BESIDE)
    known.sort(key=lambda facts: facts.run_id != asked)
    return known


def _chosen(others: list[RunFacts]) -> RunFacts:
    if len(others) == 1:
        return others[0]
    by_id = {facts.run_id: facts for facts in others}
    named = st.selectbox(
        "Beside the run",
        list(by_id),
        format_func=lambda run_id: f"{by_id[run_id].switches}, {clock(by_id[run_id].spec.created_unix_ns)} ({run_id})",
        key=f"pair-{'-'.join(by_id)[:400]}",
    )
    return by_id[named]


@lru_cache(maxsize=16)
def pair_of_runs(before_id: str, after_id: str) -> dict[str, Any]:
    """``pair_result``, kept by the runs it rests on: they are over and never change."""
    lab = get_lab()
    sides = sides_of(*(load_run(lab.home, run_id) for run_id in (before_id, after_id)))
    with lab.database.read() as con:
        return pair_result(con, load_run(lab.home, after_id).spec.scenario, *sides)


@lru_cache(maxsize=32)
def _steps(run_id: str, by: str) -> pa.Table:
    """A run's iterations, placed on an axis of ``store.side_by_side.ALIGNED``."""
    with get_lab().database.read() as con:
        return aligned(con, run_id, queries.iterations(con, run_id, TIMELINE_POINTS), by)


def _expected(result: dict[str, Any]) -> None:
    if result["expect"]:
        st.markdown("**What should come out**")
        expected_lines(result["expect"])


def _figures(result: dict[str, Any]) -> None:
    groups = list(dict.fromkeys(row["group"] for row in result["figures"]))
    group = groups[0]
    if len(groups) > 1:
        group = st.segmented_control("Requests of", groups, default=groups[0], key="pair-group", required=True)
    result_table(pair_table(result, group))
    for sentence in result["says"]:
        st.caption(plain(sentence))


def _timelines(result: dict[str, Any]) -> None:
    runs = {result[side]["name"]: result[side]["run_id"] for side in ("before", "after")}
    by = st.session_state.get("pair-aligned") or "time"
    steps = {name: _steps(run_id, by) for name, run_id in runs.items()}
    table = pa.concat_tables(
        [t.append_column("run", pa.array([runs[name]] * t.num_rows, pa.string())) for name, t in steps.items()]
    )
    opens = iteration_of({name: run for name, run in runs.items() if steps[name].num_rows})
    chart_card(
        TIMELINES,
        timelines(steps, page_palette(), ALIGNED[by]),
        table,
        queries.iterations_query(runs[result["after"]["name"]], TIMELINE_POINTS),
        name="pair-timelines",
        summary=f"Above {result['before']['name']}, below {result['after']['name']}.",
        opens=opens,
        control=_aligned_by,
    )


def _aligned_by() -> None:
    st.segmented_control(
        "Aligned by",
        list(ALIGNED),
        default="time",
        key="pair-aligned",
        required=True,
        label_visibility="collapsed",
        help="What stands above what: the same time, the same iteration, or the same number of output tokens.",
    )


@offered_with(Right.MEASURE)
def _repeat(lab: Lab, before: RunFacts, result: dict[str, Any]) -> None:
    """One click for a comparison that goes on from these two runs until it is narrow enough; what it means can be set
    beside it.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        pressed = st.button(
            "Repeat until it is sure",
            type="primary",
            icon=":material/repeat:",
            key="pair-repeat",
            help="Serves both again in turns, as often as it takes. These two runs are the first repeat.",
        )
        with st.popover("What is sure enough", icon=":material/tune:"):
            usual = _usual_figure(before.spec.scenario)
            metric = st.selectbox(
                "Figure",
                FIGURES,
                index=FIGURES.index(usual),
                format_func=lambda name: STATISTICS[name].title,
                key="pair-figure",
            )
            percent = st.number_input("Ratio within ± %", 0.5, 50.0, 100 * WIDTH, key="pair-width")
            most = st.number_input("Repeats at most", 2, 100, MOST, key="pair-most")
            again = st.checkbox(
                "Serve a disturbed run again", key="pair-again", help="Once, where the machine did something else too."
            )
    st.caption(
        plain(f"Until the ratio of {STATISTICS[metric].title} is known to ±{percent:g} %, {most} repeats at most.")
    )
    if not pressed:
        return
    names = {result[side]["name"]: result[side]["run_id"] for side in ("before", "after")}
    try:
        lab.home.require_space()
        experiment, specs = repeats_of(lab.home, names, StopRule(metric, percent / 100, int(most)))
        create_experiment(lab.home, replace(experiment, again=int(again)), specs)
    except LabError as error:
        st.error(plain(in_words(error)), icon=":material/error:")
        return
    st.switch_page("pages/compare.py", query_params={"experiment": experiment.experiment_id})


def _usual_figure(scenario: str) -> str:
    """The first figure that the scenario's expectations are about and that can be narrowed, else the p99 of the ITL."""
    try:
        lines = load(scenario).expectations
    except ScenarioError:
        lines = ()
    named = (figure.of for line in lines for figure in line.figures)
    return next((name for name in named if name in FIGURES), "itl_ms_p99")
