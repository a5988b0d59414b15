"""A search for capacity as one HTML file or as CSV: every rate tried, what it showed, and the bracket."""

from __future__ import annotations

from app.experiments.commands import rate_search_command
from app.experiments.figures import capacity_rates
from app.experiments.plan import Experiment
from app.experiments.rate_search import capacity_result
from app.experiments.tables import asked_table, rates_table
from app.exports import html, report
from app.home import Home
from app.words.states import DISTURBED_RATES


def capacity_report(home: Home, experiment: Experiment) -> str:
    """The search as a page."""
    result = capacity_result(home, experiment)
    figure = capacity_rates(experiment, result)
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
