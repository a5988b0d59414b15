"""Codecs of the KV cache side by side in a real browser: figures, crossover, pools, and quality measured by a click."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.server.client import call
from tests.app.small_runs import small_spec, wait_for_state
from tests.browser.conftest import OpenLab
from tests.browser.test_live_page import no_sideways_scroll

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
CODECS = {"codec-full": None, "codec-int8": {"codec": "int8"}, "codec-int4": {"codec": "int4"}}


@pytest.fixture(scope="module")
def served(open_lab: OpenLab) -> OpenLab:
    """The same requests at full precision and with two codecs; not all fit the pool at full precision."""
    for run_id, codec in CODECS.items():
        spec = small_spec(run_id, requests=6, tokens=40, kv_blocks=10, max_num_seqs=6, kv_quantization=codec)
        open_lab.submit(spec)
        wait_for_state(open_lab.home, run_id, "finished")
    return open_lab


def kv_tab(open_page: OpenPage, lab: OpenLab, run_id: str, **view: object) -> Page:
    page = open_page(lab.url(run_id), **{"height": 4000} | view)
    page.get_by_role("tab", name="KV cache").click()
    expect(page.get_by_text("Codecs side by side")).to_be_visible()
    return page


def drawn(page: Page, card: str) -> None:
    page.locator(f".st-key-card-{card}").scroll_into_view_if_needed()
    expect(page.locator(f".st-key-card-{card} .js-plotly-plot .main-svg").first).to_be_visible()


def test_every_codec_stands_beside_full_precision(served: OpenLab, open_page: OpenPage) -> None:
    page = kv_tab(open_page, served, "codec-int4")
    for card in ("codecs-against", "codecs-crossover", "codecs-pools"):
        drawn(page, card)
    names = page.locator(".st-key-card-codecs-against .legendtext")
    expect(names).to_have_text(["int8", "int4"])
    strips = page.locator(".st-key-card-codecs-pools .annotation-text")
    expect(strips).to_have_text(["full precision", "int8", "int4"])
    expect(page.locator(".st-key-card-codecs-pools").get_by_text("full precision: 100 % full at most")).to_be_visible()
    expect(page.locator(".st-key-card-codecs-crossover").get_by_text("modelled,", exact=False).first).to_be_visible()
    expect(page.get_by_text("Who was preempted")).to_be_visible()
    page.locator(".st-key-card-codecs-crossover").get_by_role("button", name="SQL").click()
    expect(page.get_by_text("context // width", exact=False).first).to_be_visible()


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.rare), "dark"])  # of one layout
def test_a_phone_shows_the_section_without_scrolling_sideways(
    served: OpenLab, open_page: OpenPage, scheme: str
) -> None:
    page = kv_tab(open_page, served, "codec-int4", width=390, height=844, scheme=scheme)
    drawn(page, "codecs-pools")
    assert no_sideways_scroll(page)
    for metric in page.get_by_test_id("stMetricValue").all():
        assert metric.evaluate("node => node.scrollWidth <= node.clientWidth + 1"), metric.text_content()


def test_quality_measured_by_a_click_is_in_the_table_and_in_the_database(served: OpenLab, open_page: OpenPage) -> None:
    page = kv_tab(open_page, served, "codec-int8")
    expect(page.get_by_text("is not measured on this model", exact=False)).to_be_visible()
    page.get_by_role("button", name="Measure quality").click()
    expect(page.get_by_text("Measuring quality", exact=False)).to_be_visible()
    drawn(page, "room-and-loss")
    expect(page.get_by_text("is not measured on this model", exact=False)).to_have_count(0)
    asked = "SELECT name, bits, perplexity_ratio FROM quality WHERE run_id = 'codec-int8' ORDER BY place"
    rows = call(served.address, "POST", "/sql", {"query": asked, "limit": 20})["rows"]
    assert [row[0] for row in rows] == ["full precision", "int8", "fp8", "int4", "kivi 4-bit", "kivi 2-bit"]
    assert all(row[2] > 0 for row in rows)


def test_another_codec_is_one_click_away(served: OpenLab, open_page: OpenPage) -> None:
    page = kv_tab(open_page, served, "codec-int4")
    before = set(served.home.run_ids())
    page.locator(".st-key-codec-run").get_by_role("button", name="Run these requests with it").click()
    page.wait_for_url("**/?run=2*")
    (run_id,) = set(served.home.run_ids()) - before
    wait_for_state(served.home, run_id, "finished")
    expect(page.get_by_text("fp8 emulated").first).to_be_visible()
