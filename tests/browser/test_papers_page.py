"""The Papers page in a real browser: from the gallery to a card and back, for every reader, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from scenarios import papers
from tests.browser.conftest import OpenLab, stumbling_blocks

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
EVERY = re.compile(rf"^{len(papers.names())} cards\.$")
SOME = re.compile(r"^\d+ of \d+ cards?\.$")
WIDTHS = (
    "[document.documentElement, document.querySelector('.stMain')].map((part) => part.scrollWidth - part.clientWidth)"
)


def settle(page: Page) -> None:
    """Wait until the page is drawn, with everything that is loaded when it is first drawn."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_test_id("stMain").get_by_test_id("stSkeleton")).to_have_count(0)


def test_from_the_gallery_to_a_card_and_back(open_lab: OpenLab, open_page: OpenPage) -> None:
    page = open_page(open_lab.url(path="/papers"))
    search = page.get_by_label("Search", exact=True)
    expect(page.get_by_text(EVERY)).to_be_visible()
    search.fill("cache")
    expect(page.get_by_text(SOME)).to_be_visible()
    expect(page).to_have_url(re.compile(r"/papers\?words=cache$"))
    last = page.get_by_role("button", name="Open WindowKV")
    last.scroll_into_view_if_needed()
    last.click()
    expect(page.get_by_role("heading", name="WindowKV", exact=True)).to_be_in_viewport()
    expect(page).to_have_url(re.compile(r"/papers\?paper=windowkv$"))
    page.get_by_role("button", name="All papers").click()
    expect(page.get_by_text(SOME)).to_be_visible()
    expect(search).to_have_value("cache")
    page.get_by_role("button", name="Open CacheBlend").click()
    expect(page.get_by_role("heading", name="CacheBlend", exact=True)).to_be_visible()
    page.go_back()
    expect(search).to_have_value("cache")
    page.reload()
    expect(search).to_have_value("cache")


def test_a_technique_leads_to_its_papers_and_a_card_back_to_its_switch(open_lab: OpenLab, open_page: OpenPage) -> None:
    page = open_page(open_lab.url())
    page.locator(".st-key-technique-speculation").get_by_role("link", name="Papers").click()
    expect(page.get_by_text(SOME)).to_be_visible()
    expect(page.get_by_role("combobox", name="Technique")).to_have_value("Speculative decoding")
    page.get_by_role("button", name="Open TriForce").click()
    page.get_by_role("link", name="Live with Speculative decoding").click()
    switch = page.locator(".st-key-technique-speculation input").first
    expect(switch).to_be_checked()
    expect(page).not_to_have_url(re.compile("technique="))


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.rare), "dark"])
def test_nobody_stumbles_over_papers(open_lab: OpenLab, open_page: OpenPage, scheme: str) -> None:
    page = open_page(open_lab.url(path="/papers"), scheme=scheme)
    expect(page.get_by_text(EVERY)).to_be_visible()
    settle(page)
    assert stumbling_blocks(page) == []
    page.get_by_label("Search", exact=True).fill("zebra")
    expect(page.get_by_text("No card is like that.")).to_be_visible()
    assert stumbling_blocks(page) == []
    for path in ("/papers?paper=hydragen", "/papers?paper=hydragn"):
        page.goto(open_lab.url(path=path))
        expect(page.get_by_role("button", name="All papers")).to_be_visible()
        settle(page)
        assert stumbling_blocks(page) == [], path


@pytest.mark.parametrize("path", ["/papers", "/papers?paper=hydragen", "/papers?paper=lserve", "/papers?paper=none"])
def test_papers_fit_a_phone(open_lab: OpenLab, open_page: OpenPage, path: str) -> None:
    page = open_page(open_lab.url(path=path), width=390, height=844)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settle(page)
    assert page.evaluate(WIDTHS) == [0, 0]
    assert stumbling_blocks(page) == []
    if "hydragen" in path:
        diagram = page.get_by_test_id("stCode").locator("pre")
        drawn = papers.card("hydragen").diagram.splitlines()
        assert diagram.inner_text().rstrip("\n").splitlines() == [line.rstrip() for line in drawn]
        assert diagram.evaluate("node => node.scrollWidth > node.clientWidth"), "wider than a phone, it is moved"
