"""Every page for readers with weak sight, a keyboard, a screen reader; and no page complains on the browser's console."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.app.small_runs import small_spec, wait_for_state
from tests.browser.conftest import OpenLab, stumbling_blocks

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
SCHEMES = pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.rare), "dark"])
"""Dark is where contrast fails first."""


@pytest.fixture(scope="module")
def many(open_lab: OpenLab) -> str:
    """A run with every technique's charts, and figures of three digits."""
    techniques = {"speculation": {}, "prefix_sharing": {}, "kv_quantization": {"codec": "int8"}}
    open_lab.submit(small_spec("many-requests", requests=200, tokens=3, max_num_seqs=40, **techniques))
    wait_for_state(open_lab.home, "many-requests", "finished")
    return "many-requests"


@SCHEMES
def test_nobody_stumbles_over_a_finished_run(open_lab: OpenLab, many: str, open_page: OpenPage, scheme: str) -> None:
    page = open_page(open_lab.url(many), height=5000, scheme=scheme)
    expect(page.locator(".st-key-card-prefix-tree .slicetext").first).to_be_attached()
    figures = page.locator(".st-key-figures [data-testid=stMetricValue] > div")
    expect(figures.filter(has_text="200 of 200")).to_be_visible()
    assert all(figure.evaluate("node => node.scrollWidth <= node.clientWidth + 1") for figure in figures.all())
    for name in ("Charts", "Latency", "Requests", "Iterations", "Explained", "KV cache", "Setup"):
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tabpanel").filter(visible=True)).to_be_visible()
        assert stumbling_blocks(page) == [], name
    page.get_by_role("tab", name="Charts").click()
    page.locator(".st-key-card-iterations").get_by_role("button", name="SQL").click()
    expect(page.get_by_text("FROM iterations WHERE run_id", exact=False).first).to_be_visible()
    assert stumbling_blocks(page) == []


@SCHEMES
def test_nobody_stumbles_over_lists_and_refusals(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage, scheme: str
) -> None:
    page = open_page(open_lab.url(path="/runs"), scheme=scheme)
    expect(page.get_by_text("Choose a row", exact=False)).to_be_visible()
    assert stumbling_blocks(page) == []
    page.goto(open_lab.url("finished-rum"))
    expect(page.get_by_text("There is no run 'finished-rum'.", exact=False)).to_be_visible()
    assert stumbling_blocks(page) == []
    page.goto(open_lab.url(path="/compare"))
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_visible()
    assert stumbling_blocks(page) == []
    page.get_by_role("link", name="Glossary").click()
    expect(page.get_by_text("ITL inter-token latency")).to_be_visible()
    assert stumbling_blocks(page) == []


@pytest.mark.parametrize(("path", "heading"), [("/", None), ("/runs", "Runs"), ("/compare", "Compare")])
def test_a_page_opened_by_its_address_asks_for_nothing_that_is_not_there(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage, path: str, heading: str | None
) -> None:
    page = open_page("about:blank")
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    page.goto(open_lab.url(path=path))
    expect(page.get_by_role("heading", level=1).first).to_be_visible()
    if heading:
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    assert refused == []
