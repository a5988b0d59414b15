"""The result of a comparison: verdict, figures, distributions, timelines, what differs, what was served."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import streamlit as st

from app.charts.comparison import TIMELINE_POINTS, cdf, timelines
from app.charts.objectives import attainment_by_scale
from app.components.chart_card import chart_card, page_palette
from app.components.result_table import result_table
from app.errors import LabError
from app.experiments.disturbed import resting_on
from app.experiments.figures import DISTRIBUTIONS, distribution, plane, rates, sweep_figure
from app.experiments.file import read_experiment
from app.experiments.judge import goodput_in_words, judge
from app.experiments.missing_runs import missing_runs, without
from app.experiments.plan import Experiment
from app.experiments.tables import differs_table, figures_table, served_table
from app.lab import Lab, get_lab
from app.panels.sentences import label_in_words
from app.runs.latencies import ALL
from app.views.disturbed import as_the_reader_wants
from app.views.expected import expected_lines
from app.views.missing import rows_of, say_missing, wait_for_rows
from app.views.pair import BESIDE
from app.views.points import cell_of, emission_of, iteration_of, request_of, run_of
from app.words.charts import ChartWords
from app.words.plain import plain
from app.words.text import number
from store import queries
from store.errors import StoreError
from store.metrics import METRICS
from store.samples import RunSamples, gap_counts_query, read_samples, request_figures_query
from store.slo import PRESETS
from store.statistics import STATISTICS
from telemetry.refusal import in_words

MOST_CSV_ROWS = 20_000
TIMELINE = ChartWords(
    "Iterations on one time axis",
    "Each strip is a variant's first repeat; a high step kept everybody waiting. Zooming one zooms all.",
    "iteration",
    ("start_ns", "end_ns"),
)
PLANE = ChartWords(
    "Throughput against latency",
    "To the right is more output, below is smoother. The dotted line joins the variants that no other beats on both.",
    "slice",
    ("itl_ns",),
)
OBJECTIVE = ChartWords(
    "SLO attainment",
    "The share of all submitted requests whose first token and mean time per token were within the objective, with "
    "both bounds multiplied by what the axis says; the dotted line is the objective itself.",
    "request",
    ("arrival_ns", "first_token_ns", "end_ns"),
)
RATES = ChartWords(
    "SLO attainment by request rate",
    "The share of requests in time at each rate of arrivals; goodput is the highest rate that keeps it above the "
    "dotted line.",
    "request",
    ("arrival_ns", "first_token_ns", "end_ns"),
)
OWN = "my own"
CURVE = ChartWords(
    "Sweep",
    "The figure at every value of the setting, with its interval. A click opens the first run.",
    "slice",
    ("itl_ns",),
)
GRID = ChartWords("Grid", "The figure at every combination of the two settings.", "slice", ("itl_ns",))


@dataclass(frozen=True)
class Judged:
    """Everything the page draws of an experiment as far as it is."""

    result: dict[str, Any]
    samples: dict[str, list[RunSamples]]
    distributions: dict[str, dict[str, np.ndarray]]
    steps: dict[str, pa.Table]


def comparison(lab: Lab, experiment: Experiment) -> str:
    """Draw the result of what is finished; returns the objective that the reader set."""
    missing = missing_runs(lab.home, experiment)
    say_missing(lab, experiment, missing)
    experiment = without(experiment, missing)
    if not experiment.complete_repeats():
        return experiment.slo
    experiment = as_the_reader_wants(lab, experiment)
    runs = [run for variant in experiment.variants for run in experiment.runs_of(variant.name)]
    waiting = rows_of(lab, [experiment])
    if waiting:
        wait_for_rows(lab, waiting)
        return experiment.slo
    slo = objective(experiment)
    try:
        judged = _judged(experiment.experiment_id, tuple(runs), slo)
    except (LabError, StoreError) as error:
        st.error(plain(in_words(error)), icon=":material/block:")
        return slo
    result = judged.result
    _labels(result)
    for sentence in [*result["summary"], *map(goodput_in_words, result["goodput"])]:
        st.markdown(f"- {plain(sentence)}")
    if result["stop"]:
        st.markdown(f"- {plain(result['stop']['says'])}")
    if result["expect"]:
        with st.expander("What should come out", expanded=True):
            expected_lines(result["expect"])
    if result["goodput"]:
        _rates(result, experiment)
    if len(experiment.over) in (1, 2):
        _swept(result, experiment)
    _figures(result)
    with lab.database.read() as con:
        _charts(con, judged, experiment)
    _differences(result)
    _served(result)
    _step_by_step(result)
    return slo


def objective(experiment: Experiment) -> str:
    """The objective that the reader set, as ``store.slo.parse_slo`` reads it; drawn where it can be changed."""
    options = list(dict.fromkeys([experiment.slo, *PRESETS, OWN]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Objective (SLO)",
            options,
            format_func=lambda name: f"{name}: {PRESETS[name].words}" if name in PRESETS else name,
            key=f"slo-{experiment.experiment_id}",
            help="What counts as served in time. strict and relaxed are multiples of what a request alone on this "
            "machine would see (Sarathi-Serve); the others are DistServe's, for large models on large GPUs.",
        )
        if chosen != OWN:
            return str(chosen)
        ttft = st.number_input("TTFT within, ms", 0.1, 1e6, 1000.0, key="slo-ttft", width=180)
        tpot = st.number_input("Further tokens, ms each", 0.1, 1e6, 100.0, key="slo-tpot", width=180)
    return f"ttft={ttft:g},tpot={tpot:g}"


@lru_cache(maxsize=8)
def _judged(experiment_id: str, runs: tuple[str, ...], slo: str) -> Judged:
    """Kept by the runs it rests on: they never change."""
    lab = get_lab()
    experiment = resting_on(read_experiment(lab.home, experiment_id), runs)
    with lab.database.read() as con:
        result = judge(con, experiment, slo)
        samples = {n: [read_samples(con, run) for run in about["runs"]] for n, about in result["variants"].items()}
        steps = {
            n: queries.iterations(con, about["runs"][0], TIMELINE_POINTS) for n, about in result["variants"].items()
        }
    return Judged(result, samples, {name: distribution(samples, name) for name in DISTRIBUTIONS}, steps)


def _labels(result: dict[str, Any]) -> None:
    with st.container(horizontal=True):
        st.badge(f"{result['repeats']} of {result['repeats_planned']} repeats", color="primary")
        for label in result["labels"]:
            st.badge(plain(label), color="orange", icon=":material/label:", help=label_in_words(label))


def _figures(result: dict[str, Any]) -> None:
    group = None
    if result["groups"]:
        chosen = st.segmented_control("Requests of", [ALL, *result["groups"]], default=ALL, key="group", required=True)
        group = None if chosen == ALL else chosen
    table = figures_table(result, group=group)
    result_table(table, height=420)
    st.caption(plain(table.note))


def _charts(con: duckdb.DuckDBPyConnection, judged: Judged, experiment: Experiment) -> None:
    colours, result = page_palette(), judged.result
    first = {name: about["runs"][0] for name, about in result["variants"].items()}
    base = first[experiment.baseline]
    columns = st.columns(2)
    for n, name in enumerate(DISTRIBUTIONS):
        metric = METRICS[name]
        table = _long(judged.distributions[name], name)
        row, needed = ("slice", ("itl_ns",)) if name == "itl_ms" else ("request", ("arrival_ns", "end_ns"))
        words = ChartWords(f"{metric.title}, distribution", metric.formula, row, needed)
        query = gap_counts_query(base) if name == "itl_ms" else request_figures_query(base)
        with columns[n % 2]:
            figure = cdf(judged.distributions[name], colours, title=metric.title)
            opens = emission_of(con, judged.samples) if name == "itl_ms" else request_of(judged.samples, name)
            medians = _medians(judged.distributions[name])
            chart_card(words, figure, table, query, name=f"cdf-{name}", summary=medians, opens=opens)
    steps = pa.concat_tables(
        [t.append_column("variant", pa.array([n] * t.num_rows, pa.string())) for n, t in judged.steps.items()]
    )
    query = queries.iterations_query(base, TIMELINE_POINTS)
    figure = timelines(judged.steps, colours)
    told = f"{len(judged.steps)} variants."
    opens = iteration_of({name: first[name] for name in judged.steps if judged.steps[name].num_rows})
    chart_card(TIMELINE, figure, steps, query, name="timelines", summary=told, opens=opens)
    table = figure_values(result)
    query = queries.run_query(base)
    told = "; ".join(
        f"{row['variant']} {number(row['value'])}" for row in table.to_pylist() if row["metric"] == "itl_ms_p99"
    )
    figure = plane(result, palette=colours)
    chart_card(PLANE, figure, table, query, name="plane", summary=told, opens=run_of(first))
    told = result["slo"]
    table = pa.table({"scale": told["scales"], **told["attainment"]})
    figure = attainment_by_scale(told["scales"], told["attainment"], colours)
    said = f"{told['name']}: {told['words']}."
    chart_card(OBJECTIVE, figure, table, request_figures_query(base), name="objective", summary=said, remark=said)


def _rates(result: dict[str, Any], experiment: Experiment) -> None:
    """Of a sweep over rates: the share in time at each, and the highest rate that is still served well."""
    table = pa.table(
        {
            "settings": [str(goodput["settings"]) for goodput in result["goodput"] for _ in goodput["measured"]],
            "requests_per_s": [rate for goodput in result["goodput"] for rate, _ in goodput["measured"]],
            "attainment": [share for goodput in result["goodput"] for _, share in goodput["measured"]],
        }
    )
    told = " ".join(map(goodput_in_words, result["goodput"]))
    query = request_figures_query(result["variants"][experiment.baseline]["runs"][0])
    chart_card(RATES, rates(result, page_palette()), table, query, name="rates", summary=told)


def _swept(result: dict[str, Any], experiment: Experiment) -> None:
    """A figure over the setting, or the two settings, that were swept."""
    metric = st.selectbox(
        "Figure of the sweep", list(result["metrics"]), format_func=lambda m: STATISTICS[m].title, key="swept-figure"
    )
    figure = sweep_figure(result, experiment, metric, page_palette())
    query = queries.run_query(result["variants"][experiment.baseline]["runs"][0])
    first = {name: about["runs"][0] for name, about in result["variants"].items()}
    one = len(experiment.over) == 1
    table = figure_values(result)
    opens = run_of(first) if one else cell_of(experiment, first)
    told = f"{STATISTICS[metric].title} over {' and '.join(experiment.over)}"
    chart_card(CURVE if one else GRID, figure, table, query, name="swept", summary=told, opens=opens)


def figure_values(result: dict[str, Any]) -> pa.Table:
    """Every figure of every variant, with the ends of its interval."""
    rows = [
        {"metric": metric, "variant": variant, "value": effect["value"]}
        | dict(zip(("low", "high"), effect["interval"] or (None, None), strict=True))
        for metric, by_variant in result["metrics"].items()
        for variant, effect in by_variant.items()
    ]
    return pa.Table.from_pylist(rows)


def _differences(result: dict[str, Any]) -> None:
    table = differs_table(result)
    st.markdown(f"**{table.title}**")
    if table.rows:
        result_table(table)
    else:
        st.caption("Nothing: every variant was served with the same settings.")


def _served(result: dict[str, Any]) -> None:
    table = served_table(result)
    st.markdown(f"**{table.title}**")
    result_table(table)


def _step_by_step(result: dict[str, Any]) -> None:
    """Two runs of one repeat, chosen to be looked at beside each other."""
    names = list(result["variants"])
    if len(names) < 2:
        return
    st.markdown("**Two runs step by step**", help="Where their schedules part, and the same request in both.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        one = st.selectbox("One", names, key="steps-one")
        other = st.selectbox("Beside", [name for name in names if name != one], key="steps-other")
        runs = [result["variants"][name]["runs"] for name in (one, other)]
        repeats = range(1, min(len(of) for of in runs) + 1)
        repeat = st.selectbox("Repeat", repeats, key="steps-repeat", width=110)
        st.page_link(
            "pages/compare.py",
            label="Open",
            icon=":material/compare_arrows:",
            query_params={"run": runs[0][repeat - 1], BESIDE: runs[1][repeat - 1]},
        )


def _long(samples: dict[str, np.ndarray], name: str) -> pa.Table:
    parts = []
    for variant, values in samples.items():
        kept = values[np.isfinite(values)][:MOST_CSV_ROWS]
        parts.append(pa.table({"variant": pa.array([variant] * len(kept), pa.string()), name: pa.array(kept)}))
    return pa.concat_tables(parts)


def _medians(samples: dict[str, np.ndarray]) -> str:
    known = {n: v[np.isfinite(v)] for n, v in samples.items()}
    return "Medians: " + "; ".join(f"{n} {number(float(np.median(v)))} ms" for n, v in known.items() if len(v))
