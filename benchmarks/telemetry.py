"""What telemetry costs, how soon a row can be seen, and how fast a page gets its answers.

- *per iteration*: engine-thread time to record a step with 256 requests in the batch, full detail;
- *on versus off*: time of decode steps with full recording over without, in turns within one run, the embedded model on this CPU;
- *visible*: from the end of an iteration in one process to the first query in another that finds it;
- *ingest*: rows per second from a spool into the database;
- *page*: everything the page of a finished run asks the database, for runs of 10^5 to 10^7 slice rows.

``python -m benchmarks.telemetry [--turns N] [--quick] [--parts cost,visible,ingest,page,engine] [--json FILE] [--check]``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.stats import bootstrap

from benchmarks.harness import Report, arguments, in_child, interleave, some_of, summarise
from benchmarks.querying import ingest_rows_per_s, page_refresh_ms, parts_ms, recorded_run
from benchmarks.recording import BATCH, recording_cost_us, visible_after_ms

COST_GOAL_US = 50.0
VISIBLE_GOAL_MS = 500.0
PAGE_GOALS_MS = {100_000: 50.0, 1_000_000: 100.0, 10_000_000: 250.0}
OVERHEAD_GOAL_PERCENT = 1.0
ENGINES = 3  # one after the other, each with its own turns

PARTS = ("cost", "visible", "ingest", "page", "engine")


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="less of everything, to try things out; goals are for all of it"
    )
    parser.add_argument("--turns", type=int, default=20, help="of recording on, off, off, on within one run")
    parser.add_argument(
        "--parts", type=some_of(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}, with commas"
    )
    options = parser.parse_args(words)
    report = Report("telemetry")
    measures = {
        "cost": partial(measure_cost, report, options.quick),
        "visible": partial(measure_visible, report, options.quick),
        "ingest": partial(measure_ingest, report, options.quick),
        "page": partial(measure_pages, report, options.quick),
        "engine": partial(measure_engine, report, options.turns, options.quick),
    }
    for part in options.parts:
        report.note_load()
        measures[part]()
    return report.finish(options)


def measure_cost(report: Report, quick: bool) -> None:
    repeats, steps = (2, 500) if quick else (7, 2000)
    forms = {form: partial(recording_cost_us, steps, form) for form in ("arrays", "lists")}
    by_form = interleave(forms, repeats)
    for form, rounds in by_form.items():
        means = summarise([r["mean"] for r in rounds])
        report.figure(
            f"per iteration, {BATCH} requests ({form})",
            means.median,
            "us",
            goal=COST_GOAL_US,
            better="lower",
            spread=means.spread,
            note=f"p50 {summarise([r['p50'] for r in rounds]).median:.1f} us, p99 {summarise([r['p99'] for r in rounds]).median:.1f} us",
        )


def measure_visible(report: Report, quick: bool) -> None:
    delays = visible_after_ms(3 if quick else 20)
    p50, p95 = np.quantile(delays, [0.5, 0.95])
    report.figure(
        "end of iteration to visible in a query, p95",
        float(p95),
        "ms",
        goal=VISIBLE_GOAL_MS,
        better="lower",
        note=f"p50 {p50:.0f} ms, largest {max(delays):.0f} ms, {len(delays)} iterations",
    )


def measure_ingest(report: Report, quick: bool) -> None:
    rounds = [ingest_rows_per_s(400 if quick else 4000) for _ in range(1 if quick else 3)]
    rates = summarise([r["rows_per_s"] for r in rounds])
    report.figure(
        "ingest", rates.median, "rows/s", spread=rates.spread, note=f"{rounds[0]['rows']:,.0f} rows of a spool on disk"
    )


def measure_pages(report: Report, quick: bool) -> None:
    rows = []
    for slices, goal in PAGE_GOALS_MS.items():
        if quick and slices > 1_000_000:
            continue
        with recorded_run(slices) as database:
            times = summarise(page_refresh_ms(database, 3 if quick else 9))
            parts = parts_ms(database)
        report.figure(
            f"page of a run, {slices:,} slice rows", times.median, "ms", goal=goal, better="lower", spread=times.spread
        )
        rows.append([f"{slices:,}", *parts.values()])
    report.table("Each question alone, ms (best of three)", ["slice rows", *parts], rows)


def measure_engine(report: Report, turns: int, quick: bool) -> None:
    report.note_load()
    options = ("--turns", "3", "--steps", "4") if quick else ("--turns", str(turns))
    children = [in_child("benchmarks.recording_turns", *options, worker=True) for _ in range(1 if quick else ENGINES)]
    ratios = np.array([ratio for child in children for ratio in child["ratios"]])
    report.details["recording_turns"] = ratios.tolist()
    interval = bootstrap((ratios,), np.median, rng=np.random.default_rng(0)).confidence_interval
    lost = [100 * (1 - 1 / ratio) for ratio in (float(np.median(ratios)), float(interval.low), float(interval.high))]
    report.figure(
        "engine throughput lost to recording",
        lost[0],
        "%",
        goal=OVERHEAD_GOAL_PERCENT,
        better="lower",
        spread=(lost[1], lost[2]),
        note=f"median of {len(ratios)} turns within {len(children)} runs, full detail against off; the spread is its 95 % interval",
    )


if __name__ == "__main__":
    sys.exit(main())
