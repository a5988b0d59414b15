"""A picture of every page, light and dark, on a wide screen and on a phone, for ``assets/screenshots/``.

``python -m benchmarks.screenshots [--model MODEL] [--only PAGE]... [--folder FOLDER]``

A lab of its own serves the starter scenario with and without chunked prefill, sets both beside each other, pins a
chart into a report, and serves a lesson's step; a second one has a room open, with viewers who have predicted. A
headless browser looks at each page. Pictures are WebP of what a window shows.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

import scenarios
from app.charts import iteration_timeline
from app.experiments.file import create_experiment, read_experiment
from app.experiments.repeats import repeats_of
from app.home import Home
from app.lessons.plan import begin
from app.locks import LabAddress
from app.reports import Pin, create_report, new_pin_id, pin_chart, write_report_notes
from app.room.room import open_room
from app.runs.facts import flipped
from app.theme import LIGHT
from benchmarks.harness import ROOT
from benchmarks.headless import headless, signed_in
from benchmarks.startup import begin_run, lab_process, until
from engine.config import EMBEDDED_MODEL, RunSpec
from scenarios import lessons
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
NOTHING_TO_COME = """() => [...document.querySelectorAll('[class*="st-key-seen-"]')].every((place) => {
  const box = place.getBoundingClientRect();
  return box.height < 60 || box.bottom < 0 || box.top > innerHeight;
})"""  # a chart that is drawn once it is seen has had its place kept until then
TO_ITS_TAB = "() => document.querySelector('[data-testid=stMain] [data-testid=stTabs]')?.scrollIntoView()"
TO_ITS_REVEAL = """() => {
  document.querySelector(".st-key-reveal")?.scrollIntoView();
  document.querySelector(".stMain").scrollBy(0, -80); // what stands above all pages
}"""
TABS = ("With and without", "Charts", "Latency", "Requests", "Iterations", "Explained", "KV cache", "Setup")
PAIR = "run=starter&beside=starter-turned"
LESSON, LEARNER, PREDICTED = "decoding", "pictureslearner", 4.0
ROOM_PREDICTS = {
    "viewer000001": 1.5,
    "viewer000002": 2.0,
    "viewer000003": 4.0,
    "viewer000004": 8.0,
    "viewer000005": 2.5,
}
PAGES = {
    "home": "/?run=starter",
    **{tab.lower().replace(" ", "-"): f"/?{PAIR}&tab={tab.replace(' ', '+')}" for tab in TABS},
    "request": "/?run=starter&request=5&tab=Requests",
    "compare": "/compare?experiment={experiment}",
    "two-runs": f"/compare?{PAIR}",
    "runs": "/runs",
    "reports": "/reports",
    "report": "/reports?report={report}",
    "sql": "/sql",
    "learn": "/learn",
    "lesson": f"/learn?lesson={LESSON}&step=1&learner={LEARNER}",
    "papers": "/papers",
    "paper": "/papers?paper=sarathi-serve",
    "door": "/door",
    "glossary": "/glossary",
}
"""The address of each page of a lab, by the name of its pictures."""
ROOM_PAGES = {"room": "/room", "room-presenter": f"/learn?lesson={LESSON}", "room-viewer": "/"}
"""The same of a lab with a room, where the last is a viewer's window, which follows the one before."""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="what the runs are served with")
    parser.add_argument(
        "--only", action="append", metavar="PAGE", help="only this page, by its file's name; repeatable"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures are written")
    options = parser.parse_args(words)
    unknown = set(options.only or ()) - {*PAGES, *ROOM_PAGES}
    if unknown:
        known = ", ".join((*PAGES, *ROOM_PAGES))
        print(f"--only: no page {', '.join(sorted(unknown))}; there are: {known}", file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    with headless() as browser:
        for pages, pictured in ((PAGES, lab_pictures), (ROOM_PAGES, room_pictures)):
            wanted = [name for name in pages if not options.only or name in options.only]
            with tempfile.TemporaryDirectory(prefix="servescope-pictures-") as folder:
                for path in pictured(browser, Home(Path(folder)), options, wanted) if wanted else ():
                    print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
    return 0


def lab_pictures(browser: Browser, home: Home, options: argparse.Namespace, wanted: Sequence[str]) -> Iterator[Path]:
    """Serve what the pages show, and look at those that are wanted."""
    with lab_process(home, "--no-starter") as lab:
        shown = prepared(home, lab, options.model, lesson="lesson" in wanted)
        with signed_in(browser, lab) as profile:
            for name in wanted:
                scroll = TO_ITS_TAB if "tab=" in PAGES[name] else TO_ITS_REVEAL if name == "lesson" else "() => {}"
                address = lab.url + PAGES[name].format(**shown)
                yield from pictures(profile, address, options.folder, name, partial(Page.evaluate, expression=scroll))


def room_pictures(browser: Browser, home: Home, options: argparse.Namespace, wanted: Sequence[str]) -> Iterator[Path]:
    """Open a room in which some have predicted, and look at it as the presenter and as a viewer."""
    room, step = open_room(home.prepare()), lessons.lesson(LESSON).steps[0]
    for member, value in ROOM_PREDICTS.items():
        room.predict(member, LESSON, 0, step, value)
    with lab_process(home, "--no-starter", "--workshop") as lab, signed_in(browser, lab) as presents:
        window = presents.new_page()
        window.goto(lab.url + ROOM_PAGES["room-presenter"])
        present(window)
        with browser.new_context() as follows:
            page = follows.new_page()
            page.goto(f"{lab.url}/?token={room.kept.viewers_token}")
            following(page)
            page.close()
            for name in wanted:
                present(window)
                profile, place = (follows, following) if name == "room-viewer" else (presents, present)
                yield from pictures(profile, lab.url + ROOM_PAGES[name], options.folder, name, place)


def present(page: Page) -> None:
    """Have this window of the presenter's present."""
    told, take_over = page.get_by_text("You present to"), page.get_by_role("button", name="Present from here")
    told.or_(take_over).wait_for()
    if take_over.count():
        take_over.click()
    told.wait_for()


def following(page: Page) -> None:
    page.get_by_text("You follow the presenter").wait_for()
    page.wait_for_url("**lesson=**")


def prepared(home: Home, lab: LabAddress, model: str, *, lesson: bool) -> dict[str, str]:
    """Fill a store with what the pages show; the ids that stand in their addresses."""
    spec = scenarios.build("starter", {"model": model})
    turned = flipped(spec, "chunked_prefill", "starter-turned", time.time_ns())
    spec = spec.model_copy(update={"run_id": "starter"})
    for one in (turned, spec):
        served(home, lab, one)
    experiment, specs = repeats_of(
        home, {"turned": "starter-turned", "starter": "starter"}, StopRule("itl_ms_p99", 0.1, 3)
    )
    create_experiment(home, replace(experiment, state="paused"), specs)
    if lesson:
        begun = begin(home, LEARNER, LESSON, 0, PREDICTED)
        until(lambda: read_experiment(home, begun).state == "finished", "the lesson's runs to end")
    return {"experiment": experiment.experiment_id, "report": report(home)}


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


def pictures(
    profile: BrowserContext, address: str, folder: Path, name: str, place: Callable[[Page], object]
) -> list[Path]:
    """Look at a page in every size and scheme; the files. ``place``: what is done in a page that is drawn."""
    made = []
    for scheme in SCHEMES:
        page = profile.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for width, height in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            page.goto(address)
            made.append(look(page, folder / f"{name}-{scheme}-{width}.webp", place))
        page.close()
    return made


def look(page: Page, path: Path, place: Callable[[Page], object]) -> Path:
    page.get_by_role("heading").first.wait_for()
    _until_drawn(page)
    place(page)
    _until_drawn(page)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)
    return path


def _until_drawn(page: Page) -> None:
    """A place that is looked for earlier lies elsewhere once all is drawn."""
    for _ in range(2):
        page.wait_for_function(IS_STILL)
        page.wait_for_function(NOTHING_TO_COME)
        page.wait_for_timeout(SETTLES_MS)


if __name__ == "__main__":
    sys.exit(main())
