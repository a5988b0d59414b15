"""A headless browser in front of a lab, for benchmarks that look at pages."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from playwright.sync_api import Browser, BrowserContext, sync_playwright

from app.chromium import HOW_TO_GET_ONE, find_chromium
from app.locks import LabAddress
from app.server.client import page_address

PATIENCE_MS = 120_000
IS_STILL = "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"


@contextlib.contextmanager
def headless() -> Iterator[Browser]:
    """A browser. Ends the program where there is none, and says how to get one."""
    program = find_chromium()
    if program is None:
        sys.exit(HOW_TO_GET_ONE)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=str(program), args=["--no-sandbox", "--disable-gpu"]) as browser,
    ):
        yield browser


@contextlib.contextmanager
def signed_in(browser: Browser, lab: LabAddress) -> Iterator[BrowserContext]:
    """A browser profile that the lab has let in."""
    with browser.new_context(viewport={"width": 1440, "height": 900}) as profile:
        page = profile.new_page()
        page.goto(page_address(lab))
        page.wait_for_function(IS_STILL)
        page.close()
        yield profile
