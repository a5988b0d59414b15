"""Results as CSV files; what strangers wrote is never run as a formula by the spreadsheet that opens them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import duckdb

from app.experiments.plan import Experiment
from app.experiments.rate_search import capacity_result
from app.home import Home
from store import queries

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


def write_comparison_csv(result: dict[str, Any], path: Path) -> None:
    """A row per figure and variant."""
    fields = (
        "value",
        "low",
        "high",
        "difference",
        "difference_low",
        "difference_high",
        "ratio",
        "ratio_low",
        "ratio_high",
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "variant", *fields, "verdict", "pairs", "repeats"])
        for metric, by_variant in result["metrics"].items():
            for variant, effect in by_variant.items():
                cells: list[Any] = []
                for key in ("value", "difference", "ratio"):
                    around = effect["interval" if key == "value" else f"{key}_interval"] or (None, None)
                    cells += [effect[key], *around]
                writer.writerow(
                    [metric, safe_cell(variant), *cells, effect["verdict"], effect["pairs"], effect["repeats"]]
                )


def write_requests_csv(con: duckdb.DuckDBPyConnection, run_id: str, path: Path) -> None:
    table = queries.requests(con, run_id)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        for row in table.to_pylist():
            writer.writerow([safe_cell(value) for value in row.values()])


def safe_cell(value: Any) -> Any:
    """The value; text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write_capacity_csv(home: Home, experiment: Experiment, path: Path) -> None:
    """A row per rate tried."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", *PROBE])
        for name, about in capacity_result(home, experiment)["variants"].items():
            for probe in about["probes"]:
                writer.writerow([safe_cell(name), *(probe.get(key) for key in PROBE)])
