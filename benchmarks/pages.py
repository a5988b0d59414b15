"""How long a reader waits for a page, and what watching a run costs: a real lab, a real run, a headless browser.

``python -m benchmarks.pages [--repeats N] [--model MODEL] [--watch-s S] [--json FILE] [--check]``

- *first chart*: from asking for a finished run's page, in a browser that has been here before, to its first chart: a
  picture of it, with its axes and legend.
- *chart that answers*: to the same chart drawn by Plotly, which answers the pointer.
- *whole page*: to everything that the page draws by itself.
- *toggle*: from a click on the technique's switch beside a finished run to its settings coming or going.
- *another tab*: from a click on a tab to what it shows.
- *server*: processor time that a viewer of a run adds to the lab's process, in percent of one core; what that process
  takes to read the run's rows in is beside it. *browser*: the viewer's own. The engine's time is in none of them.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from playwright.sync_api import BrowserContext, Page

import scenarios
from app.home import Home
from app.locks import LabAddress
from benchmarks.harness import Report, arguments, summarise
from benchmarks.headless import IS_STILL, PATIENCE_MS, headless, signed_in
from benchmarks.startup import begin_run, end_run, lab_process, wait_until_served
from engine.config import EMBEDDED_MODEL
from telemetry.status import is_final, read_status

FIRST_CHART_S = 1.5
TOGGLE_S = 0.3
SERVER_PERCENT = 5.0
BROWSER_PERCENT = 10.0
SWITCH = "Chunked prefill"
ITS_SETTING = "Token budget"
CHART = ".js-plotly-plot .main-svg"
PICTURE = ".lab-still img"
PANEL = "[data-testid=stSidebar] [data-testid=stCheckbox]"
REST = (".st-key-card-token-gaps", PANEL)
"""What the page draws once its first chart is seen."""
SETTLES_MS = 3000  # opening a page is no part of watching it
STARTED = "() => { window.began = performance.now(); }"
SINCE = "() => (performance.now() - window.began) / 1000"


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="times each wait is measured")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="what the run is served with")
    parser.add_argument("--watch-s", type=float, default=10.0, help="seconds that a run is watched")
    parser.add_argument("--run-s", type=float, default=30.0, help="seconds that the run goes on after that, then ended")
    options = parser.parse_args(words)
    report = Report("pages")
    with (
        headless() as browser,
        tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder,
        lab_process(Home(Path(folder)), "--no-starter") as lab,
    ):
        home = Home(Path(folder))
        with signed_in(browser, lab) as profile:
            run_id = serve(home, lab, options.model)
            watching = watch(home, lab, profile, run_id, options.watch_s)
            time.sleep(options.run_s)
            end_run(home, lab, run_id)
            address = f"{lab.url}/?run={run_id}"
            loads, toggles, tabs = [], [], []
            for repeat in range(options.repeats + 1):  # the first one fills the browser's caches
                report.note_load()
                page = profile.new_page()
                page.set_default_timeout(PATIENCE_MS)
                load = open_page(page, address)
                toggle, tab = flip(page), turn(page)
                page.close()
                if repeat:
                    loads.append(load)
                    toggles += toggle
                    tabs += tab
    first, answers, whole = (summarise([load[n] for load in loads]) for n in range(3))
    report.figure("first chart", first.median, "s", goal=FIRST_CHART_S, better="lower", spread=first.spread)
    report.figure("chart that answers", answers.median, "s", better="lower", spread=answers.spread)
    report.figure("whole page", whole.median, "s", better="lower", spread=whole.spread)
    flips, turns = summarise(toggles), summarise(tabs)
    report.figure("toggle", flips.median, "s", goal=TOGGLE_S, better="lower", spread=flips.spread)
    report.figure("another tab", turns.median, "s", better="lower", spread=turns.spread)
    report.figure("server", watching[0], "% of a core", goal=SERVER_PERCENT, better="lower")
    report.figure("server, nobody watching", watching[1], "% of a core", better="lower")
    report.figure("browser", watching[2], "% of a core", goal=BROWSER_PERCENT, better="lower")
    report.details["seconds"] = {"loads": loads, "toggles": toggles, "tabs": tabs}
    return report.finish(options)


def serve(home: Home, lab: LabAddress, model: str) -> str:
    """Start the starter scenario; returns once it runs."""
    spec = scenarios.build("starter", {"model": model})
    begin_run(home, lab, spec)
    wait_until_served(home, spec.run_id)
    return spec.run_id


def watch(
    home: Home, lab: LabAddress, profile: BrowserContext, run_id: str, watch_s: float
) -> tuple[float, float, float]:
    """Percent of a core: what a viewer costs the lab's process, what that process takes without one, and what the
    viewer's browser takes.
    """
    server = [child for child in psutil.Process().children() if "app.cli" in child.cmdline()]
    (alone,) = percent_of_core(None, watch_s, server)
    page = profile.new_page()
    page.goto(f"{lab.url}/?run={run_id}")
    page.wait_for_selector("canvas", timeout=PATIENCE_MS)
    page.wait_for_selector(PANEL, state="attached", timeout=PATIENCE_MS)  # drawn once the board is seen
    page.wait_for_function(IS_STILL)
    page.wait_for_timeout(SETTLES_MS)
    browsers = [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]
    watched, browser = percent_of_core(page, watch_s, server, browsers)
    page.close()
    if is_final(read_status(home.run_dir(run_id))):
        raise RuntimeError("the run ended while it was watched; give --watch-s a smaller number")
    return watched - alone, alone, browser


def percent_of_core(page: Page | None, watch_s: float, *groups: Sequence[psutil.Process]) -> list[float]:
    """What each group of processes takes while nothing else is done. ``page``: one that goes on meanwhile."""
    before = [spent(group) for group in groups]
    began = time.perf_counter()
    if page is None:
        time.sleep(watch_s)
    else:
        page.wait_for_timeout(watch_s * 1000)
    seconds = time.perf_counter() - began
    return [100 * (spent(group) - early) / seconds for group, early in zip(groups, before, strict=True)]


def spent(processes: Sequence[psutil.Process]) -> float:
    """Seconds of processor time so far."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def open_page(page: Page, address: str) -> tuple[float, float, float]:
    """Seconds to the first chart, until Plotly has drawn it, and until nothing is drawn any more."""
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(f"{PICTURE}, {CHART}")
    first = time.perf_counter() - began
    page.wait_for_selector(CHART)
    answers = time.perf_counter() - began
    for part in REST:
        page.wait_for_selector(part, state="attached")
    page.wait_for_function(IS_STILL)
    return first, answers, time.perf_counter() - began


def flip(page: Page) -> list[float]:
    """Seconds that a technique's switch takes to be answered, off and on or on and off."""
    sidebar = page.get_by_test_id("stSidebar")
    switch = sidebar.get_by_test_id("stCheckbox").filter(has_text=SWITCH)
    setting = sidebar.get_by_label(ITS_SETTING).first
    waits = []
    for _ in range(2):
        shown = setting.count() > 0
        page.evaluate(STARTED)
        switch.get_by_text(SWITCH, exact=True).click()
        setting.wait_for(state="detached" if shown else "attached")
        waits.append(page.evaluate(SINCE))
        page.wait_for_function(IS_STILL)
    return waits


def turn(page: Page) -> list[float]:
    """Seconds that other tabs take to show what they hold."""
    waits = []
    for name in ("Requests", "Latency"):
        page.evaluate(STARTED)
        page.get_by_role("tab", name=name).click()
        page.locator("[role=tabpanel]:visible [data-testid=stDataFrame]").first.wait_for()
        waits.append(page.evaluate(SINCE))
        page.wait_for_function(IS_STILL)
    return waits


if __name__ == "__main__":
    sys.exit(main())
