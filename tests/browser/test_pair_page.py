"""With and without on one screen: a run is flipped in a real browser, and both runs stand side by side when the second is over."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from app.experiments.file import read_experiment
from tests.app.small_runs import small_spec, wait_for, wait_for_state
from tests.browser.conftest import OpenLab, stumbling_blocks
from tests.browser.test_live_page import no_sideways_scroll

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]


def test_a_flip_ends_with_both_runs_on_one_screen_and_one_click_repeats_them(
    open_lab: OpenLab, open_page: OpenPage
) -> None:
    spec = small_spec("without", requests=7, tokens=14).model_copy(update={"scenario": "starter"})
    open_lab.submit(spec)
    wait_for_state(open_lab.home, "without", "finished")
    page = open_page(open_lab.url("without"), height=3000)
    page.get_by_role("button", name="Run again with chunked prefill").click()
    expect(page.get_by_role("tab", name="With and without")).to_have_attribute("aria-selected", "true")
    card = page.locator(".st-key-card-pair-timelines")
    expect(card.locator(".js-plotly-plot")).to_be_visible()
    assert card.locator(".js-plotly-plot").evaluate("plot => plot.data.map((trace) => trace.yaxis)") == ["y", "y2"]
    assert card.locator(".js-plotly-plot").evaluate("plot => Object.keys(plot._fullLayout._plots)") == ["xy", "xy2"]
    expect(page.get_by_text("One run each, of the same 7 requests", exact=False)).to_be_visible()
    flipped = parse_qs(urlsplit(page.url).query)["run"][0]
    for width in (1440, 390):  # as one who comes later sees it, without the board
        later = open_page(open_lab.url(path=f"/?run={flipped}&beside=without"), width=width)
        expect(later.get_by_role("button", name="Repeat until it is sure")).to_be_visible()
        assert stumbling_blocks(later) == []
        assert no_sideways_scroll(later)
    before = set(open_lab.home.experiment_ids())
    page.get_by_role("button", name="Repeat until it is sure").click()
    expect(page.get_by_text("of at most 25")).to_be_visible()
    page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped after")).to_be_visible()
    (started,) = set(open_lab.home.experiment_ids()) - before
    wait_for(lambda: read_experiment(open_lab.home, started).state == "paused")
    assert read_experiment(open_lab.home, started).turns[1].run_id == "without"
