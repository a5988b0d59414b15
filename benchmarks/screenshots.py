"""A picture of every page, light and dark, on a wide screen and on a phone, for ``assets/screenshots/``.

``python -m benchmarks.screenshots [--model MODEL] [--only PAGE]... [--folder FOLDER]``

A lab of its own serves the starter scenario with and without chunked prefill, sets both beside each other, and pins a
chart into a report; then a headless browser looks at each page. Pictures are WebP of what a window shows.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import BrowserContext, Page

import scenarios
from app.charts import iteration_timeline
from app.experiments.file import create_experiment
from app.experiments.repeats import repeats_of
from app.home import Home
from app.locks import LabAddress
from app.reports import Pin, create_report, new_pin_id, pin_chart, write_report_notes
from app.runs.facts import flipped
from app.theme import LIGHT
from benchmarks.harness import ROOT
from benchmarks.headless import headless, signed_in
from benchmarks.startup import begin_run, lab_process, until
from engine.config import EMBEDDED_MODEL, RunSpec
from store import queries
from store.aside import rows_aside
from store.plan import StopRule
from telemetry.status import is_final, read_status

FOLDER = ROOT / "assets" / "screenshots"
SIZES = {1440: 900, 390: 844}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
QUALITY = 55  # of WebP, 0 to 100
SETTLES_MS = 700  # charts and canvases fade in
PATIENCE_MS = 120_000
IS_STILL = """() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'
  && !document.querySelector('[data-testid=stSkeleton]')"""
TO_ITS_TAB = "() => document.querySelector('[data-testid=stMain] [data-testid=stTabs]')?.scrollIntoView()"
TABS = ("With and without", "Charts", "Latency", "Requests", "Iterations", "KV cache", "Setup")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="what the runs are served with")
    parser.add_argument(
        "--only", action="append", metavar="PAGE", help="only this page, by its file's name; repeatable"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures are written")
    options = parser.parse_args(words)
    with (
        headless() as browser,
        tempfile.TemporaryDirectory(prefix="servescope-pictures-") as folder,
        lab_process(Home(Path(folder)), "--no-starter") as lab,
    ):
        home = Home(Path(folder))
        pages = prepared(home, lab, options.model)
        unknown = set(options.only or ()) - set(pages)
        if unknown:
            print(f"--only: no page {', '.join(sorted(unknown))}; there are: {', '.join(pages)}", file=sys.stderr)
            return 1
        options.folder.mkdir(parents=True, exist_ok=True)
        with signed_in(browser, lab) as profile:
            for name in options.only or pages:
                for path in pictures(profile, lab.url + pages[name], options.folder, name, tab="tab=" in pages[name]):
                    print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
    return 0


def prepared(home: Home, lab: LabAddress, model: str) -> dict[str, str]:
    """Fill a store with what the pages show; the address of each page, by the name of its pictures."""
    spec = scenarios.build("starter", {"model": model})
    turned = flipped(spec, "chunked_prefill", "starter-turned", time.time_ns())
    spec = spec.model_copy(update={"run_id": "starter"})
    for one in (turned, spec):
        served(home, lab, one)
    experiment, specs = repeats_of(
        home, {"turned": "starter-turned", "starter": "starter"}, StopRule("itl_ms_p99", 0.1, 3)
    )
    create_experiment(home, replace(experiment, state="paused"), specs)
    run = "/?run=starter"
    pair = "run=starter&beside=starter-turned"
    tabs = {tab.lower().replace(" ", "-"): f"/?{pair}&tab={tab.replace(' ', '+')}" for tab in TABS}
    return {
        **tabs,
        "request": f"{run}&request=5&tab=Requests",
        "compare": f"/compare?experiment={experiment.experiment_id}",
        "two-runs": f"/compare?{pair}",
        "runs": "/runs",
        "reports": "/reports",
        "report": f"/reports?report={report(home)}",
        "sql": "/sql",
        "learn": "/learn",
        "papers": "/papers",
        "paper": "/papers?paper=sarathi-serve",
        "door": "/door",
        "glossary": "/glossary",
    }


def served(home: Home, lab: LabAddress, spec: RunSpec) -> None:
    """Have a run served to its end."""
    begin_run(home, lab, spec)
    until(lambda: is_final(read_status(home.run_dir(spec.run_id))), f"the run {spec.run_id} to end")


def report(home: Home) -> str:
    """A report with one chart; its id."""
    report_id = create_report(home, "What chunked prefill does")
    query = queries.iterations_query("starter", 2000)
    with rows_aside(home.runs, ["starter"]) as rows:
        figure = iteration_timeline(query.table(rows.con), LIGHT)
    pin = Pin(
        pin_id=new_pin_id(),
        title="Iterations",
        about="Every bar is one engine step.",
        runs=("starter",),
        sql=query.sql,
        note="No step is longer than the token budget allows.",
        pinned_unix_ns=time.time_ns(),
    )
    pin_chart(home, report_id, pin, figure)
    write_report_notes(home, report_id, "**Question**: who waits while a long prompt is computed?")
    return report_id


def pictures(profile: BrowserContext, address: str, folder: Path, name: str, *, tab: bool) -> list[Path]:
    """Look at a page in every size and scheme; the files. ``tab``: from its tabs on."""
    made = []
    for scheme in SCHEMES:
        page = profile.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for width, height in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            page.goto(address)
            made.append(look(page, folder / f"{name}-{scheme}-{width}.webp", TO_ITS_TAB if tab else ""))
        page.close()
    return made


def look(page: Page, path: Path, scroll: str) -> Path:
    page.get_by_role("heading").first.wait_for()
    page.wait_for_function(IS_STILL)
    if scroll:
        page.evaluate(scroll)
    page.wait_for_timeout(SETTLES_MS)
    page.wait_for_function(IS_STILL)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)
    return path


if __name__ == "__main__":
    sys.exit(main())
