"""A chart's PNG and SVG, asked for before Plotly's script has come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.browser.conftest import PATIENCE_MS, OpenLab

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PLOTLY = "**/*lotly*.js"


def test_a_picture_that_is_asked_for_before_its_chart_is_drawn_is_saved_then(
    open_lab: OpenLab, finished_run: str, open_page: Callable[..., Page], profile: BrowserContext
) -> None:
    held: list[Route] = []
    is_held = True

    def hold(route: Route) -> None:
        if is_held:
            held.append(route)
        else:
            route.continue_()

    profile.route(PLOTLY, hold)
    try:
        page = open_page(open_lab.url(finished_run))
        buttons = page.locator("[class*='st-key-files-']").first
        svg = buttons.get_by_role("button", name="SVG")
        svg.click()
        expect(svg).to_have_text("Preparing SVG")
        expect(svg).to_have_attribute("aria-busy", "true")
        for _ in range(PATIENCE_MS // 100):  # until the chart's place is drawn, which asks for the script
            if held:
                break
            page.wait_for_timeout(100)
        assert held, "Plotly's script has another name"
        assert page.locator(".js-plotly-plot").count() == 0
        expect(svg).to_have_text("Preparing SVG")
        svg.click()  # asks for nothing more
        with page.expect_download() as download:
            is_held = False
            for route in held:
                route.continue_()
        assert Path(download.value.path()).read_bytes().startswith(b"<svg")
        expect(svg).to_have_text("SVG")
    finally:
        profile.unroute(PLOTLY)
