"""The browser of the browser tests: the one on this machine. Without one the tests fail and say how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

from app.chromium import HOW_TO_GET_ONE, find_chromium

OPTIONS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",  # no page draws in three dimensions, and to play a graphics card takes a processor
    "--disable-software-rasterizer",
)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless browser, closed at the end of the block."""
    program = find_chromium()
    if program is None:
        pytest.fail(HOW_TO_GET_ONE, pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()
