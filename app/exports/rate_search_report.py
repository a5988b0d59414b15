"""A search for capacity as one HTML file or as CSV: every rate tried, what it showed, and the bracket."""

from __future__ import annotations

from app.charts.objectives import attainment_by_rate
from app.experiments.commands import rate_search_command
from app.experiments.plan import Experiment
from app.experiments.rate_search import capacity_result
from app.experiments.tables import asked_table, rates_table
from app.exports import html, report
from app.home import Home
from app.theme import LIGHT
from app.words.states import DISTURBED_RATES
from store.slo import GOODPUT_ATTAINMENT


def capacity_report(home: Home, experiment: Experiment) -> str:
    """The search as a page."""
    result = capacity_result(home, experiment)
    groups = [
        {
            "name": name,
            "measured": [(probe["requests_per_s"], probe["attainment"]) for probe in about["probes"]],
            "goodput": about["capacity"],
        }
        for name, about in result["variants"].items()
    ]
    figure = attainment_by_rate(groups, LIGHT, goal=GOODPUT_ATTAINMENT)
    parts = [
        html.story(
            experiment.title,
            experiment.question,
            result["labels"],
            result["summary"],
            report.disturbance_warning(result, DISTURBED_RATES),
        ),
        html.table_section(rates_table(result)),
        html.chart_section([("SLO attainment by request rate", figure)], thinned=False),
        html.table_section(asked_table(result)),
        html.again(rate_search_command(experiment, result)),
        html.fine_print(f"Experiment {experiment.experiment_id}, workload {experiment.workload_hash}."),
    ]
    return html.page(experiment.title, parts)
