"""Opens what the form of settings shows on request, in a page that is tested without a browser, and in a browser."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from app.settings import controls as book
from app.settings.more_techniques import MORE

SECTIONS = (MORE, "more-settings", *(f"more-{technique.path}" for technique in book.techniques()))
"""Keys of the session, true where a section of the Live page's form is open."""


def open_sections(page: AppTest, *, open: bool = True) -> AppTest:
    """Open (or close) every section but the workload, before the page is drawn."""
    for section in SECTIONS:
        page.session_state[section] = open
    return page


def open_more_techniques(page: Page) -> None:
    """Open the section of the techniques that do not lead, where it is closed."""
    line = page.get_by_test_id("stSidebar").get_by_role("button", name="More techniques")
    if line.get_attribute("aria-expanded") != "true":
        line.click()
    further = book.further_techniques()[-1].path
    expect(page.locator(f".st-key-technique-{further}")).to_be_visible()
