"""What the presenter looks at within a page: viewers are scrolled and zoomed along, unless they look around alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.home import Home
from app.room.files import rooms
from tests.app.lab_process import LabProcess, lab_on
from tests.app.small_runs import small_spec
from tests.browser.conftest import PATIENCE_MS, STILL

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.rare]
SCROLLED = "document.querySelector('.stMain').scrollTop"
IN_SIGHT = """(text) => {
  const named = [...document.querySelectorAll(".stMain h3")].find((one) => one.textContent.includes(text));
  const at = named ? named.getBoundingClientRect().top / innerHeight : -1;
  return at > 0 && at < 1 && document.querySelector(".stMain").scrollTop > 500;
}"""
TO_HEADING = """(text) => [...document.querySelectorAll(".stMain h3")].find((one) => one.textContent.includes(text))
  .scrollIntoView({ block: "center", behavior: "instant" })"""
TO_CHARTS = "document.querySelector('[role=tablist]').scrollIntoView({ block: 'start', behavior: 'instant' })"
CHART = "document.querySelector('.js-plotly-plot')"
RANGE = f"{CHART}._fullLayout.xaxis.range"


@pytest.fixture(scope="module")
def lab() -> Iterator[LabProcess]:
    with tempfile.TemporaryDirectory() as folder, lab_on(Home(Path(folder)), "--workshop", "--port", "0") as running:
        running.submit(small_spec("shown", requests=6, tokens=40))
        yield running


def window(browser: Browser, lab: LabProcess, token: str, path: str, width: int) -> Page:
    page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{lab.address.url}{path}{'&' if '?' in path else '?'}token={token}")
    page.wait_for_function(STILL)
    return page


def test_a_telephone_is_scrolled_to_the_same_part_and_not_while_its_reader_looks_around(
    browser: Browser, lab: LabProcess
) -> None:
    room = rooms(lab.home)[0]
    presents = window(browser, lab, room.presenters_token, "/glossary", 1280)
    expect(presents.get_by_text("You present to")).to_be_visible()
    follows = window(browser, lab, room.viewers_token, "/", 390)
    expect(follows).to_have_url(f"{lab.address.url}/glossary")
    middle, last = "Speculative decoding", "Prefix sharing"
    for page in (presents, follows):
        expect(page.get_by_role("heading", name=middle)).to_be_attached()
    presents.evaluate(TO_HEADING, middle)
    follows.wait_for_function(IN_SIGHT, arg=middle)

    follows.get_by_role("button", name="Look around alone").click()
    alone = follows.evaluate(SCROLLED)
    presents.evaluate(TO_HEADING, last)
    presents.wait_for_timeout(1500)
    assert follows.evaluate(SCROLLED) == alone
    follows.get_by_role("button", name="Back to the presenter").click()
    follows.wait_for_function(IN_SIGHT, arg=last)
    for page in (presents, follows):
        page.context.close()


def test_a_chart_is_zoomed_along_and_shows_all_again(browser: Browser, lab: LabProcess) -> None:
    room = rooms(lab.home)[0]
    presents = window(browser, lab, room.presenters_token, "/?run=shown&tab=Charts", 1280)
    follows = window(browser, lab, room.viewers_token, "/", 1280)
    take_over = presents.get_by_role("button", name="Present from here")
    expect(take_over.or_(presents.get_by_text("You present to"))).to_be_visible()
    if take_over.count():
        take_over.click()
    expect(presents.get_by_text("You present to")).to_be_visible()
    presents.evaluate(TO_CHARTS)  # they are drawn once they are seen, and the viewer sees them by being led there
    for page in (presents, follows):
        page.wait_for_function(f"{CHART}?._fullLayout?.xaxis")
    whole = follows.evaluate(RANGE)
    box = presents.locator(".js-plotly-plot").first.bounding_box()
    assert box is not None
    presents.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + box["height"] / 2)
    presents.mouse.down()
    presents.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + box["height"] / 2, steps=6)
    presents.mouse.up()
    presents.wait_for_function(f"{RANGE}[0] > {whole[0]}")
    zoomed = presents.evaluate(RANGE)
    follows.wait_for_function(f"Math.abs({RANGE}[0] - {zoomed[0]}) + Math.abs({RANGE}[1] - {zoomed[1]}) < 1e-6")
    presents.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2)
    follows.wait_for_function(f"Math.abs({RANGE}[0] - {whole[0]}) + Math.abs({RANGE}[1] - {whole[1]}) < 1e-6")
    for page in (presents, follows):
        page.context.close()
