"""A search for capacity as one HTML file or as CSV: every rate tried, what it showed, and the bracket."""

from __future__ import annotations

from app.charts.objectives import attainment_by_rate
from app.experiments.commands import rate_search_command
from app.experiments.plan import Experiment
from app.experiments.rate_search import capacity_result, repeats_in_words
from app.exports import html, report
from app.exports.csv_files import PROBE
from app.home import Home
from app.theme import LIGHT
from app.words.states import DISTURBED_RATES
from app.words.text import number
from store.slo import GOODPUT_ATTAINMENT


def capacity_report(home: Home, experiment: Experiment) -> str:
    """The search as a page."""
    result = capacity_result(home, experiment)
    groups = [
        {"name": name, "measured": [(probe["requests_per_s"], probe["attainment"]) for probe in about["probes"]]}
        for name, about in result["variants"].items()
    ]
    figure = attainment_by_rate(groups, LIGHT, goal=GOODPUT_ATTAINMENT)
    rows = [
        (name, *(probe.get(key) if key in ("held", "run_id") else number(probe.get(key)) for key in PROBE))
        for name, about in result["variants"].items()
        for probe in about["probes"]
    ]
    settings = [
        (name, ", ".join(f"{key}={value}" for key, value in about["settings"].items()) or "as the scenario has it")
        for name, about in result["variants"].items()
    ]
    parts = [
        html.story(
            experiment.title,
            experiment.question,
            result["labels"],
            result["summary"],
            report.disturbance_warning(result, DISTURBED_RATES),
        ),
        html.section(
            "Rates tried",
            html.table_of(("variant", *PROBE.values()), rows),
            " ".join(
                [f"A rate holds with {result['criterion']}.", repeats_in_words(result["repeats"]), *result["notes"]]
            ),
        ),
        html.chart_section([("Requests in time, by rate", figure)], thinned=False),
        html.section("Variants", html.table_of(("variant", "settings"), settings)),
        html.again(rate_search_command(experiment, result)),
        html.fine_print(f"Experiment {experiment.experiment_id}, workload {experiment.workload_hash}."),
    ]
    return html.page(experiment.title, parts)
