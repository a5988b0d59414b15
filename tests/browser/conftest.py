"""A real lab in its own process, and a real browser in front of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from app.home import Home
from app.locks import LabAddress, running_lab
from app.runs.folder import create_run
from app.server.client import call, page_address
from engine.config import RunSpec
from telemetry.status import is_final
from tests.app.small_runs import read_status, small_spec, wait_for, wait_for_state

Scheme = Literal["light", "dark"]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)
HARMLESS = ("ResizeObserver loop",)
STILL = """() => document.querySelector("[data-testid=stApp]")?.dataset.testScriptState === "notRunning"
  && document.getAnimations().every((one) => one.playState !== "running" || one.effect.getComputedTiming().iterations === Infinity)"""
"""Drawn to the end, and nothing is fading in or out."""
AXE = Axe()
AUDIT = (Path(__file__).parent / "audit.js").read_text(encoding="utf-8")


@dataclass
class OpenLab:
    """A lab that is up."""

    home: Home
    address: LabAddress

    def url(self, run_id: str | None = None, path: str = "/") -> str:
        """The address of a page for a browser that was not here before."""
        ticket = page_address(self.address).partition("?")[2]
        asked = path + (f"?run={run_id}" if run_id else "")
        return f"{self.address.url}{asked}{'&' if '?' in asked else '?'}{ticket}"

    def submit(self, spec: RunSpec) -> str:
        create_run(self.home, spec)
        call(self.address, "POST", "/runs", {"run_id": spec.run_id})
        return spec.run_id

    def cancel(self, run_id: str) -> None:
        call(self.address, "POST", f"/runs/{run_id}/cancel")
        wait_for(lambda: is_final(read_status(self.home.run_dir(run_id))))


@pytest.fixture(scope="session")
def open_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenLab]:
    folder = tmp_path_factory.mktemp("lab")
    home = Home(folder / "home")
    log = folder / "lab.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "lab", "--port", "0", "--no-starter"],
            cwd=ROOT,
            env=os.environ | {"SERVESCOPE_HOME": str(home.root)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: process.poll() is not None or running_lab(home) is not None)
        address = running_lab(home)
        assert address is not None, log.read_text()
        yield OpenLab(home, address)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def finished_run(open_lab: OpenLab) -> str:
    """A run that is over, in the database, with a title that looks like markup."""
    spec = small_spec("finished-run", requests=6, tokens=12)
    spec = spec.model_copy(update={"title": "<b id='planted'>a title</b> :red[x]"})
    open_lab.submit(spec)
    wait_for_state(open_lab.home, spec.run_id, "finished")
    return spec.run_id


def stumbling_blocks(page: Page) -> list[str]:
    """What a reader with weak sight, a keyboard or a screen reader would stumble over. What one look in three does not see was passing."""
    seen: set[str] | None = None
    for _ in range(3):
        page.wait_for_timeout(300)  # what was done is on its way to the server
        page.wait_for_function(STILL)
        audited = set(page.evaluate(AUDIT)) | axe_findings(page)
        seen = audited if seen is None else seen & audited
        if not seen:
            break
    return sorted(seen or ())


def axe_findings(page: Page) -> set[str]:
    """What axe-core calls serious or critical, and where the first of it is. It does not look into charts, which have a text of
    their own, nor at contrast, which ``AUDIT`` measures in a tenth of the time.
    """
    rules = {"color-contrast": {"enabled": False}}
    found = AXE.run(page, {"exclude": [[".js-plotly-plot"]]}, {"resultTypes": ["violations"], "rules": rules})
    return {
        f"axe {one['id']}: {one['help']} {one['nodes'][0]['html'][:200]}"
        for one in found.response["violations"]
        if one["impact"] in {"serious", "critical"}
    }


def tick_first_row(page: Page) -> None:
    """Choose the first row of the one table in view by its tick box: a table is a canvas. While a page is drawn anew there may be two tables."""
    corners: list[list[float]] = []

    def alone() -> bool:
        page.wait_for_timeout(300)  # what was done is on its way to the server
        page.wait_for_function(STILL)
        tables = page.get_by_test_id("stDataFrame").filter(visible=True)
        corners[:] = tables.evaluate_all(
            "all => all.map((one) => [one.getBoundingClientRect().x, one.getBoundingClientRect().y])"
        )
        return len(corners) == 1

    wait_for(alone)
    page.mouse.click(corners[0][0] + 18, corners[0][1] + 52)


def said(message: ConsoleMessage) -> str:
    return f"{message.text} {message.location.get('url', '')}"


@pytest.fixture(scope="session")
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """One browser profile for all pages: what it has loaded and compiled of Streamlit and Plotly it does not load again."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def open_page(profile: BrowserContext) -> Iterator[Callable[..., Page]]:
    """Open an address as a browser that was never here would; the test fails if the page complained on its console."""
    pages = []
    complaints: list[str] = []

    def open_one(url: str, *, width: int = 1440, height: int = 900, scheme: Scheme = "light") -> Page:
        page = profile.new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(said(message)) if message.type == "error" else None)
        page.goto(url)
        return page

    yield open_one
    for page in pages:
        page.evaluate("localStorage.clear(); sessionStorage.clear()")
        page.close()
    profile.clear_cookies()
    assert [text for text in complaints if not any(word in text for word in HARMLESS)] == []
