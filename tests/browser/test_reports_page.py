"""A chart goes into a report, and the report out as a file: walked through in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenLab, stumbling_blocks

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]


def test_a_chart_is_pinned_read_exported_deleted_and_brought_back(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(finished_run), height=1600)
    page.locator(".st-key-pin-iterations").get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Its name").fill("What was seen")
    dialog.get_by_label("Note").fill("**Bold** and <b id='planted'>bold</b>")
    dialog.locator(".st-key-pin-now").get_by_role("button").click()
    expect(dialog.get_by_text("Pinned.")).to_be_visible()
    assert stumbling_blocks(page) == []
    dialog.get_by_role("link", name="Open the report").click()
    expect(page.get_by_role("heading", name="What was seen")).to_be_visible()
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    expect(page.locator("strong", has_text="Bold")).to_be_visible()
    assert page.locator("#planted").count() == 0
    assert stumbling_blocks(page) == []
    with page.expect_download() as download:
        page.get_by_role("button", name="One HTML file").click()
    assert "What was seen" in Path(download.value.path()).read_text(encoding="utf-8")
    page.get_by_text("All reports").click()
    expect(page.get_by_role("heading", name="Reports", exact=True)).to_be_visible()
    page.get_by_text("What was seen").first.click()
    expect(page.get_by_role("heading", name="What was seen")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("What was seen").first).to_be_visible()
    page = open_page(open_lab.url(f"{finished_run}&iteration=4"), height=1600)
    picture = page.get_by_role("group", name="This picture as a file").first
    picture.get_by_role("button", name="Pin").click()
    dialog = page.get_by_role("dialog")
    dialog.locator(".st-key-pin-now").get_by_role("button").click()
    dialog.get_by_role("link", name="Open the report").click()
    expect(page.locator(".js-plotly-plot image")).to_have_attribute("href", re.compile("^data:image/png;base64,"))
    expect(page.get_by_text("Iteration 4 of", exact=False).first).to_be_visible()
    assert stumbling_blocks(page) == []
