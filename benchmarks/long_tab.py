"""Whether a tab that stays open grows: one page starts and watches run after run, in a real lab and a headless browser.

``python -m benchmarks.long_tab [--minutes M] [--run-s S] [--model MODEL] [--json FILE] [--check]``

After every run the browser collects its garbage and says how much memory its scripts hold, how many elements the page has
and how many listeners. *growth* is the median of the last third of those readings over the median of the third before it: what a
page keeps for good shows there, what its first runs fill only once does not. *server* is the same of the lab's process.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from playwright.sync_api import CDPSession, Page

from app.home import Home
from app.locks import LabAddress
from app.server.client import call
from benchmarks.harness import Report, arguments
from benchmarks.headless import IS_STILL, PATIENCE_MS, headless, signed_in
from benchmarks.startup import lab_process, until, wait_until_served
from telemetry.status import is_final, read_status

GROWTH = 1.1
MINUTES = 60.0
RUN_S = 40.0  # a run is watched, then cancelled
SETTLES_MS = 3000
COUNTED = {"JSHeapUsedSize": "heap", "Nodes": "elements", "JSEventListeners": "listeners"}


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long the tab stays open")
    parser.add_argument(
        "--run-s", type=float, default=RUN_S, help="seconds that each run is watched before it is cancelled"
    )
    options = parser.parse_args(words)
    report = Report("long_tab")
    report.note_load()
    with (
        headless() as browser,
        tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder,
        lab_process(Home(Path(folder)), "--no-starter") as lab,
        signed_in(browser, lab) as profile,
    ):
        page = profile.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(lab.url)
        readings = watched(page, Home(Path(folder)), lab, 60 * options.minutes, options.run_s)
    third = len(readings) // 3
    if not third:
        print(
            f"--minutes: {options.minutes:g} give {len(readings)} runs of {options.run_s:g} s; at least 3 are needed",
            file=sys.stderr,
        )
        return 1
    for name in (*COUNTED.values(), "server"):
        values = [reading[name] for reading in readings]
        early, late = statistics.median(values[-2 * third : -third]), statistics.median(values[-third:])
        report.figure(f"growth, {name}", late / early, "x", goal=GROWTH if name == "heap" else None, better="lower")
    report.table(
        "After each run",
        ["run", "heap, MB", "elements", "listeners", "server, MB"],
        [
            [
                number,
                f"{r['heap'] / 1e6:.1f}",
                f"{r['elements']:.0f}",
                f"{r['listeners']:.0f}",
                f"{r['server'] / 1e6:.0f}",
            ]
            for number, r in enumerate(readings, 1)
        ],
    )
    return report.finish(options)


def watched(page: Page, home: Home, lab: LabAddress, for_s: float, run_s: float) -> list[dict[str, float]]:
    """Start run after run on the page and watch each; what the tab holds after each."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    (server,) = [child for child in psutil.Process().children() if "app.cli" in child.cmdline()]
    readings: list[dict[str, float]] = []
    seen: set[str] = set()
    until_s = time.monotonic() + for_s
    while time.monotonic() < until_s:
        page.wait_for_function(IS_STILL)
        page.get_by_role("button", name="Start", exact=True).click()
        run_id = until(lambda: next(iter(set(home.run_ids()) - seen), None), "a run of the page's")
        seen.add(run_id)
        wait_until_served(home, run_id)
        page.wait_for_selector("canvas")
        page.wait_for_timeout(1000 * run_s)
        call(lab, "POST", f"/runs/{run_id}/cancel")
        until(lambda run_id=run_id: is_final(read_status(home.run_dir(run_id))), "the run to end")
        page.wait_for_timeout(SETTLES_MS)
        readings.append(held(session) | {"server": float(server.memory_info().rss)})
    return readings


def held(session: CDPSession) -> dict[str, float]:
    """What the tab holds once its garbage is gone."""
    for _ in range(2):  # what the first one frees may hold more
        session.send("HeapProfiler.collectGarbage")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return {short: float(metrics[name]) for name, short in COUNTED.items()}


if __name__ == "__main__":
    sys.exit(main())
