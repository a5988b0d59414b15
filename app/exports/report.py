"""A run or an experiment as one HTML file: the story, the verdict, charts that still hover and zoom, tables, settings.

The file needs no network and nothing in it can reach one: plotly.js is inside, its upload button is not, and a content
security policy forbids every connection. Long runs are thinned for the charts, and the file says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from app import charts
from app.charts.comparison import TIMELINE_POINTS, cdf, timelines
from app.charts.objectives import attainment_by_scale
from app.errors import LabError
from app.experiments.commands import compare_command, run_command
from app.experiments.figures import DISTRIBUTIONS, SWEPT, distribution, plane, rates, sweep_figure
from app.experiments.judge import goodput_in_words, judge
from app.experiments.plan import Experiment
from app.experiments.tables import differs_table, expected_table, figures_table, served_table
from app.exports.html import again, chart_section, fine_print, page, pairs, section, story, table_of, table_section
from app.panels import PANELS
from app.runs.latencies import COUNTED, latency_rows
from app.settings.given import flat
from app.theme import LIGHT
from app.words.states import DISTURBED, DRAWN_ANEW
from app.words.text import number
from engine.config import spec_of_today
from store import queries
from store.metrics import METRICS
from store.samples import read_samples
from store.statistics import STATISTICS
from store.summary import LATENCY_FIGURES, small_samples

MOST_GAPS = 4000
CHART_POINTS = 1500


def experiment_report(con: duckdb.DuckDBPyConnection, experiment: Experiment, slo: str | None = None) -> str:
    """The experiment as a page, ``slo``: by another objective. Raises ``LabError`` where it cannot be judged."""
    result = judge(con, experiment, slo)
    samples = {name: [read_samples(con, run) for run in about["runs"]] for name, about in result["variants"].items()}
    first = {name: about["runs"][0] for name, about in result["variants"].items()}
    steps = {name: queries.iterations(con, run_id, TIMELINE_POINTS) for name, run_id in first.items()}
    figures = [
        (f"{METRICS[name].title}: distribution", cdf(distribution(samples, name), LIGHT, title=METRICS[name].title))
        for name in DISTRIBUTIONS
    ]
    figures.append(("Iterations of the first repeat, on one time axis", timelines(steps, LIGHT)))
    figures.append(("Throughput against latency", plane(result)))
    objective = result["slo"]
    figures.append(
        (
            f"SLO attainment by how strict the SLO is (at 1: {objective['words']})",
            attainment_by_scale(objective["scales"], objective["attainment"], LIGHT),
        )
    )
    if result["goodput"]:
        figures.append(("SLO attainment by request rate", rates(result)))
    if len(experiment.over) in (1, 2):
        figures += [
            (
                f"{STATISTICS[metric].title} over {' and '.join(experiment.over)}",
                sweep_figure(result, experiment, metric),
            )
            for metric in SWEPT
            if metric in result["metrics"]
        ]
    rows = {run: queries.run(con, run) or {} for run in first.values()}
    thinned = any(((row.get("figures") or {}).get("iterations") or 0) > TIMELINE_POINTS for row in rows.values())
    base = rows[first[experiment.baseline]]
    told = [*result["summary"], *map(goodput_in_words, result["goodput"])]
    told += [result["stop"]["says"]] if result["stop"] else []
    told += [DRAWN_ANEW] if experiment.draws else []
    parts = [
        story(experiment.title, experiment.question, result["labels"], told, disturbance_warning(result)),
        *([table_section(expected_table(result["expect"]))] if result["expect"] else []),
        table_section(figures_table(result)),
        *(table_section(figures_table(result, group=group)) for group in result["groups"]),
        chart_section(figures, thinned),
        *(
            table_section(table)
            for panel in PANELS
            for table in panel.comparison_tables(con, list(first.values()), experiment.workload_hash)
        ),
        table_section(differs_table(result)),
        table_section(served_table(result)),
        section(
            "Configuration of the baseline", pairs(flat(spec_of_today(base.get("spec") or {}).get("engine") or {}))
        ),
        section("Machine and versions", pairs(flat(base.get("environment") or {}))),
        again(compare_command(experiment)),
        fine_print(f"Experiment {experiment.experiment_id}, workload {experiment.workload_hash}."),
    ]
    return page(experiment.title, parts)


def run_report(con: duckdb.DuckDBPyConnection, run_id: str) -> str:
    """One run as a page. Raises ``LabError`` for a run that is not in the database."""
    row = queries.run(con, run_id)
    if row is None:
        raise LabError("unknown-run", field="run", value=run_id, message=f"The run {run_id} has no recorded rows.")
    figures = queries.summary(con, run_id) or {}
    steps = queries.iterations(con, run_id, CHART_POINTS)
    gaps = queries.token_latencies(con, run_id, MOST_GAPS)
    samples = read_samples(con, run_id)
    drawn = [
        ("Iterations", charts.iteration_timeline(steps, LIGHT)),
        ("ITL of every token", charts.token_gaps(gaps, LIGHT)),
        ("Batch composition", charts.batch_makeup(steps, LIGHT)),
        ("KV pool", charts.kv_pool(steps, LIGHT, queries.preemptions_query(run_id).table(con))),
        *(
            (
                f"{METRICS[n].title}: distribution",
                cdf(distribution({"run": [samples]}, n), LIGHT, title=METRICS[n].title),
            )
            for n in DISTRIBUTIONS
        ),
    ]
    title = str(row.get("title") or row.get("scenario") or run_id)
    requests = figures.get("requests") or {}
    told = [
        f"{requests.get('finished')} of {requests.get('total')} requests finished in {figures.get('iterations')} "
        f"iterations; {number(figures.get('output_tokens_per_s'))} output tokens/s."
    ]
    table = table_of(
        ("requests", "", *LATENCY_FIGURES, "samples"),
        [
            (row.group, f"{row.title}, ms", *(number(row.figures.get(share)) for share in COUNTED))
            for row in latency_rows(figures)
        ],
    )
    disturbances = figures.get("disturbances") or []
    spec = spec_of_today(row.get("spec") or {})
    parts = [
        story(
            title, "", row.get("labels") or [], told, [f"Disturbed: {'; '.join(disturbances)}."] if disturbances else []
        ),
        section("Latency", table, " ".join(small_samples(figures))),
        chart_section(drawn, (figures.get("iterations") or 0) > CHART_POINTS),
        *(table_section(table) for panel in PANELS for table in panel.run_tables(con, run_id)),
        section("Configuration", pairs(flat(spec.get("engine") or {}))),
        section("Machine and versions", pairs(flat(row.get("environment") or {}))),
        again(run_command(str(row.get("scenario")), spec.get("engine") or {}, spec.get("workload") or {})),
        fine_print(f"Run {run_id}, workload {figures.get('workload_hash')}."),
    ]
    return page(title, parts)


# ---- pieces ----------------------------------------------------------------------------------------------------------


def disturbance_warning(result: Mapping[str, Any], words: str = DISTURBED) -> list[str]:
    """``words``, if the machine was disturbed while any run of the result was served."""
    return [words] if any(about["disturbed"] for about in result["variants"].values()) else []
