"""How long the database takes for the Requests tab of a run with many slice rows.

``python -m benchmarks.requests_tab [--slices N] [--repeats N] [--json FILE] [--check]``

- *first content*: what the tab asks before it shows the requests over time and their table.
- *as before*: the same with everything about the whole run's waiting, which the tab asked for with it until that part was
  drawn once a reader comes near it.
- *why, whole run*: that part alone. *one request*: everything about a request that was clicked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import duckdb

from app.panels.why import why_not_sooner
from benchmarks.harness import Report, arguments, summarise
from benchmarks.querying import recorded_run
from store import lifelines, queries, waits
from store.slo import DEFAULT_SLO, PRESETS

RUN = "big"
SLICES = 10_000_000
FIRST_CONTENT_S = 1.5
MOST_BLAMED = 12
Ask = Callable[[duckdb.DuckDBPyConnection], object]


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--slices", type=int, default=SLICES, help="rows of the run")
    parser.add_argument("--repeats", type=int, default=5, help="times each is asked, on a fresh cursor")
    options = parser.parse_args(words)
    report = Report("requests_tab")
    with recorded_run(options.slices) as database:
        with database.read() as con:
            request = con.execute("SELECT count(*) // 2 FROM requests WHERE run_id = 'big'").fetchall()[0][0]
        parts = parts_of(request)
        taken: dict[str, list[float]] = {name: [] for name in parts}
        for repeat in range(options.repeats + 1):  # the first one warms the files' cache
            report.note_load()
            for name, ask in parts.items():
                with database.read() as con:
                    began = time.perf_counter()
                    ask(con)
                    if repeat:
                        taken[name].append(time.perf_counter() - began)
    first = [sum(times) for times in zip(taken["table"], taken["over time"], strict=True)]
    why = [sum(times) for times in zip(*(taken[name] for name in ("waits", "gaps", "blame")), strict=True)]
    both = [early + late for early, late in zip(first, why, strict=True)]
    for name, seconds, goal in (
        ("first content", first, FIRST_CONTENT_S),
        ("as before", both, None),
        ("why, whole run", why, None),
        ("one request", taken["one request"], None),
    ):
        told = summarise(seconds)
        report.figure(name, told.median, "s", goal=goal, better="lower", spread=told.spread)
    rows = [[name, *(f"{1e3 * at:,.0f}" for at in summarise(times).spread)] for name, times in taken.items()]
    report.table(f"Each question alone at {options.slices:,} slice rows, ms", ["question", "least", "most"], rows)
    return report.finish(options)


def parts_of(request: int) -> dict[str, Ask]:
    """What the tab asks (``app/views/requests.py``, ``timeline.py``, ``waits.py``), by name."""

    def one(con: duckdb.DuckDBPyConnection) -> None:
        lifelines.waterfall(con, RUN, request)
        why_not_sooner(con, RUN, request)

    return {
        "table": lambda con: queries.requests_query(RUN, text=True).table(con),
        "over time": lambda con: lifelines.lifelines(con, RUN, PRESETS[DEFAULT_SLO]),
        "waits": lambda con: waits.waits_by_group(con, RUN),
        "gaps": lambda con: waits.gaps_by_group(con, RUN),
        "blame": lambda con: waits.blame(con, RUN, limit=MOST_BLAMED),
        "one request": one,
    }


if __name__ == "__main__":
    sys.exit(main())
