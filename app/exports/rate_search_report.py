"""A search for capacity as one HTML file or as CSV: every rate tried, what it showed, and the bracket."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.charts.objectives import attainment_by_rate
from app.experiments.plan import Experiment
from app.experiments.rate_search import capacity_result, repeats_in_words
from app.exports import report
from app.home import Home
from app.theme import LIGHT
from app.words.states import DISTURBED_RATES
from app.words.text import number
from store.slo import GOODPUT_ATTAINMENT

PROBE = {
    "requests_per_s": "requests/s",
    "attainment": "in time",
    "itl_ms_p99": "ITL p99, ms",
    "itl_samples": "ITL samples",
    "scheduling_delay_ms": "delay p50, ms",
    "output_tokens_per_s": "output tokens/s",
    "held": "holds",
    "disturbances": "disturbances",
    "run_id": "run",
}
"""What is told of a rate that was tried, and how a table heads it."""


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
        report.story(
            experiment.title,
            experiment.question,
            result["labels"],
            result["summary"],
            report.disturbance_warning(result, DISTURBED_RATES),
        ),
        report.section(
            "Rates tried",
            report.table_of(("variant", *PROBE.values()), rows),
            " ".join(
                [f"A rate holds with {result['criterion']}.", repeats_in_words(result["repeats"]), *result["notes"]]
            ),
        ),
        report.chart_section([("Requests in time, by rate", figure)], thinned=False),
        report.section("Variants", report.table_of(("variant", "settings"), settings)),
        report.again(_command(experiment, result)),
        report.fine_print(f"Experiment {experiment.experiment_id}, workload {experiment.workload_hash}."),
    ]
    return report.page(experiment.title, parts)


def write_capacity_csv(home: Home, experiment: Experiment, path: Path) -> None:
    """A row per rate tried."""
    from app.exports.export import safe_cell

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", *PROBE])
        for name, about in capacity_result(home, experiment)["variants"].items():
            for probe in about["probes"]:
                writer.writerow([safe_cell(name), *(probe.get(key) for key in PROBE)])


def _command(experiment: Experiment, result: Mapping[str, Any]) -> str:
    assert experiment.search is not None
    bound = experiment.search.tbt_ms
    by = f"--tbt {bound:g}" if bound is not None else f"--slo {experiment.slo}"
    limits = f"--low {result['low']:g} --high {result['high']:g} --tolerance {result['tolerance']:g}"
    again = f"--repeats {experiment.repeats} {limits} {by}"
    return f"servescope capacity {experiment.scenario} {report.variant_options(experiment)} {again}"
