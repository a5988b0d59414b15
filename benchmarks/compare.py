"""Comparisons: how often a thing looks different from itself, and how fast the Compare page is answered.

Goals: of 40 experiments of a scenario with itself (real runs), the 95 % interval excludes zero in at most 5, per figure; with 10^7
slice rows over 20 runs every question of the Compare page is answered within 500 ms.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.charts.comparison import TIMELINE_POINTS
from app.experiments.drive import drive_here
from app.experiments.file import create_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.plan import Variant, plan
from app.home import Home
from benchmarks.harness import Report, arguments
from benchmarks.querying import make_rows
from store import queries
from store.database import Database
from store.experiments import experiments
from store.samples import alone, emission_near, read_samples
from store.summary import compute_summary

RUNS = 20
SLICES = 10_000_000
QUERY_MS = 500.0
EXPERIMENTS = 40
MOST_SHOWN = 5
REPEATS = 3
FIGURES = ("ttft_ms", "itl_ms", "itl_ms_p99", "e2e_ms", "output_tokens_per_s")
SCENARIO = """
title: A against A
summary: Random tiny weights.
question: Does a thing differ from itself?
engine: {model: "random:tiny", device: cpu, threads: 1, kv_blocks: 600, max_num_seqs: 4}
workload:
  groups:
    all:
      requests: 24
      arrivals: {kind: at-once}
      prompt: {kind: prose}
      prompt_tokens: {kind: fixed, tokens: 60}
      output_tokens: {kind: fixed, tokens: 48}
      ignore_eos: true
"""


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--experiments", type=int, default=EXPERIMENTS, help="experiments of a scenario with itself")
    parser.add_argument("--slices", type=int, default=SLICES, help="slice rows of the database that is asked")
    chosen = parser.parse_args()
    report = Report("compare")
    report.note_load()
    measure_queries(report, chosen.slices)
    if chosen.experiments:
        measure_false_alarms(report, chosen.experiments)
    report.note_load()
    return report.finish(chosen)


def measure_queries(report: Report, slices: int) -> None:
    """Each question of the Compare page on a database of ``RUNS`` runs; the slowest of three asks of any run counts."""
    asked: dict[str, Callable[[Any, str], object]] = {
        "a run's samples": read_samples,
        "a run's iterations": lambda con, run: queries.iterations(con, run, TIMELINE_POINTS),
        "a run's row": queries.run,
        "what a request alone would see": lambda con, run: alone(con, five_from(run)),
        "the emission behind a point": lambda con, run: emission_near(con, five_from(run), 11.5),
        "the experiments": lambda con, run: experiments(con),
    }
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder, Database(Path(folder) / "db") as database:
        names = [f"run-{n:02d}" for n in range(RUNS)]
        with database.read() as con:
            for name in names:
                make_rows(con, name, slices // RUNS)
                figures = json.dumps(compute_summary(con, name))
                con.execute("UPDATE runs SET figures = ? WHERE run_id = ?", [figures, name])
        database.checkpoint()
        for question, ask in asked.items():
            times = []
            for name in (names[0], names[RUNS // 2], names[-1]):
                for _ in range(3):
                    with database.read() as con:
                        start = time.perf_counter()
                        ask(con, name)
                        times.append((time.perf_counter() - start) * 1e3)
            report.figure(
                question,
                max(times),
                "ms",
                goal=QUERY_MS,
                better="lower",
                spread=(min(times), max(times)),
                note=f"{slices:,} slice rows in {RUNS} runs",
            )


def five_from(run: str) -> list[str]:
    """A variant's runs: this one and the next four."""
    first = int(run.removeprefix("run-"))
    return [f"run-{(first + n) % RUNS:02d}" for n in range(5)]


def measure_false_alarms(report: Report, experiments: int) -> None:
    """How many experiments of a scenario with itself show a difference, by figure."""
    shown = dict.fromkeys(FIGURES, 0)
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        scenario = Path(folder) / "itself.yaml"
        scenario.write_text(SCENARIO)
        for n in range(experiments):
            metrics = compare_with_itself(Home(Path(folder) / f"home-{n}").prepare(), scenario)
            for name in FIGURES:
                low, high = metrics[name]["b"]["difference_interval"]
                shown[name] += not low <= 0 <= high
    for name, count in shown.items():
        report.figure(
            f"false alarms, {name}",
            count,
            "",
            goal=MOST_SHOWN,
            better="lower",
            note=f"of {experiments} experiments of a scenario with itself, {REPEATS} repeats",
        )


def compare_with_itself(home: Home, scenario: Path) -> dict[str, Any]:
    """The figures of an experiment whose two variants are the same, served by real engines."""
    experiment, specs = plan(str(scenario), (Variant("a"), Variant("b")), REPEATS)
    create_experiment(home, experiment, specs)
    driver, queue = drive_here(home, experiment.experiment_id)
    try:
        while driver.step().state == "running":
            queue.tick()
            time.sleep(0.05)
    finally:
        queue.stop()
        driver.release()
    metrics: dict[str, Any] = result_of_experiment(home, experiment.experiment_id)["metrics"]
    return metrics


if __name__ == "__main__":
    sys.exit(main())
