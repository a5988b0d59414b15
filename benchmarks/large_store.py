"""How long every page takes on a large store: a run of 10^7 slice rows and one of a quarter of that among 200 runs, a real lab, a headless browser.

``python -m benchmarks.large_store [--slices N] [--runs N] [--only PAGE]... [--repeats N] [--json FILE] [--check]``

- *first content*: from asking for a page, in a browser that has been here before, to the first figure, table, chart or field
  of its own. A tab of a run is taken from the click on it.
- *whole page*: to everything that the page draws by itself.
- *live refresh*: processor time of the lab's process for each message to the page of a run that is being served.

The runs are copies of one that the engine served; the rows of the large ones are made up and recorded as an engine does. The
lab reads all of them in before anything is timed.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from playwright.sync_api import Page, WebSocket

import scenarios
from app.home import Home
from app.locks import LabAddress
from app.server.client import call
from benchmarks.harness import Report, arguments, summarise
from benchmarks.headless import IS_STILL, PATIENCE_MS, headless, signed_in
from benchmarks.large_rows import AT_ONCE, BESIDE, BIG, copy_runs, make_large, serve_one
from benchmarks.pages import percent_of_core
from benchmarks.startup import begin_run, end_run, lab_process, until, wait_until_served
from engine.config import EMBEDDED_MODEL
from telemetry.status import is_final, read_status

FIRST_CONTENT_S = 1.5
REFRESH_MS = 100.0
SLICES, RUNS = 10_000_000, 200
WATCH_S = 20.0
ASKS_S = 2.0  # between two questions whether the rows are there, which would slow their coming
CONTENT = ", ".join(
    f"[data-testid=stMain] {one}"
    for one in (
        "[data-testid=stMetric]",
        "[data-testid=stDataFrame]",
        "[data-testid=stTable]",
        "[data-testid=stPageLink]",
        "[data-testid=stTextInput]",
        "[data-testid=stTextArea]",
        "[data-testid=stButton]",
        "[data-testid=stPopover]",
        "[data-testid=stSelectbox]",
        ".js-plotly-plot .main-svg",
        "canvas",
        "table",
    )
)
"""What counts as a page's first content."""
PANEL = CONTENT.replace("[data-testid=stMain]", "[role=tabpanel]:not([hidden])")
TABS = ("Charts", "Latency", "Requests", "Iterations", "KV cache", "Setup")
PAGES = {
    "home": "/",
    "run": f"/?run={BIG}",
    "a request": f"/?run={BIG}&request=4000&tab=Requests",
    "an iteration": f"/?run={BIG}&iteration=300000&tab=Iterations",
    "two runs": f"/compare?run={BIG}&beside={BESIDE}",
    "runs": "/runs",
    "compare": "/compare",
    "reports": "/reports",
    "sql": "/sql",
    "papers": "/papers",
    "learn": "/learn",
    "door": "/door",
    "glossary": "/glossary",
}


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--slices", type=int, default=SLICES, help="slice rows of the large run")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs in the store")
    parser.add_argument("--repeats", type=int, default=3, help="times each page is opened")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="what the runs are served with")
    parser.add_argument("--only", action="append", choices=[*PAGES, "tabs", "live"], help="only this; repeatable")
    parser.add_argument(
        "--home", type=Path, help="a folder for the store, which is kept; what it holds is taken as it is"
    )
    options = parser.parse_args(words)
    asked = options.only or [*PAGES, "tabs", "live"]
    report = Report("large_store")
    with (
        headless() as browser,
        kept(options.home) as home,
    ):
        if not home.runs.exists():
            with lab_process(home, "--no-starter") as lab:
                serve_one(home, lab, options.model)
            copy_runs(home, options.runs)
            make_large(home, BIG, options.slices, options.slices)
            make_large(home, BESIDE, options.slices // 4, options.slices)
        with lab_process(home, "--no-starter") as lab:
            report.details["read_in_s"] = read_in(lab, options.runs, options.slices)
            with signed_in(browser, lab) as profile:
                for name in asked:
                    page = profile.new_page()
                    page.set_default_timeout(PATIENCE_MS)
                    report.note_load()
                    if name == "tabs":
                        tabs(report, page, lab, options.repeats)
                    elif name == "live":
                        live(report, page, home, lab, options.model)
                    else:
                        waits = [opened(page, lab.url + PAGES[name]) for _ in range(options.repeats + 1)][1:]
                        tell(report, name, waits)
                    page.close()
    return report.finish(options)


def tell(report: Report, name: str, waits: Sequence[tuple[float, float]]) -> None:
    first, whole = (summarise([wait[n] for wait in waits]) for n in (0, 1))
    report.figure(name, first.median, "s", goal=FIRST_CONTENT_S, better="lower", spread=first.spread)
    report.figure(f"{name}, whole page", whole.median, "s", better="lower", spread=whole.spread)


def opened(page: Page, address: str) -> tuple[float, float]:
    """Seconds to a page's first content, and until nothing is drawn any more."""
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator(CONTENT).filter(visible=True).first.wait_for()
    first = time.perf_counter() - began
    page.wait_for_function(IS_STILL)
    return first, time.perf_counter() - began


def tabs(report: Report, page: Page, lab: LabAddress, repeats: int) -> None:
    """Every tab of the large run, from the click on it."""
    waits: dict[str, list[tuple[float, float]]] = {name: [] for name in TABS}
    for repeat in range(repeats + 1):
        opened(page, f"{lab.url}/?run={BIG}&tab=Setup")
        for name in TABS:
            began = time.perf_counter()
            page.get_by_role("tab", name=name, exact=True).click()
            page.locator(PANEL).filter(visible=True).first.wait_for()
            first = time.perf_counter() - began
            page.wait_for_function(IS_STILL)
            if repeat:
                waits[name].append((first, time.perf_counter() - began))
    for name in TABS:
        tell(report, f"tab {name}", waits[name])


def live(report: Report, page: Page, home: Home, lab: LabAddress, model: str) -> None:
    """What the lab's process spends for each message to the page of a run being served."""
    received = itertools.count()
    spec = scenarios.build("starter", {"model": model})
    begin_run(home, lab, spec)
    wait_until_served(home, spec.run_id)

    def follow(socket: WebSocket) -> None:
        if "/live" in socket.url:
            socket.on("framereceived", lambda _: next(received))

    page.on("websocket", follow)
    page.goto(f"{lab.url}/?run={spec.run_id}")
    page.wait_for_selector("canvas")
    page.wait_for_function(IS_STILL)
    server = [child for child in psutil.Process().children() if "app.cli" in child.cmdline()]
    early = next(received)
    (percent,) = percent_of_core(page, WATCH_S, server)
    messages = next(received) - early - 1
    if is_final(read_status(home.run_dir(spec.run_id))):
        raise RuntimeError("the run ended while it was watched")
    end_run(home, lab, spec.run_id)
    report.figure(
        "live refresh", 10 * percent * WATCH_S / max(messages, 1), "ms of a core", goal=REFRESH_MS, better="lower"
    )
    report.details["live"] = {"messages": messages, "seconds": WATCH_S}


@contextlib.contextmanager
def kept(folder: Path | None) -> Iterator[Home]:
    """The store, gone afterwards where no folder is given."""
    if folder is not None:
        yield Home(folder.absolute())
        return
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as made:
        yield Home(Path(made))


def read_in(lab: LabAddress, runs: int, slices: int) -> float:
    """Wait until the lab's database has every row; seconds."""
    began = time.perf_counter()
    sql = f"SELECT (SELECT count(DISTINCT run_id) FROM requests), (SELECT count(*) FROM slices WHERE run_id = '{BIG}')"

    def all_there() -> bool:
        time.sleep(ASKS_S)
        answer = call(lab, "POST", "/sql", {"query": sql})
        found, rows = answer["rows"][0]
        return bool(found >= runs and rows >= slices // AT_ONCE * AT_ONCE)

    until(all_there, "the rows to be read in")
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
