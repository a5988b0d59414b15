"""A room in real browsers: a viewer follows the presenter, looks around alone, predicts, comes back after a break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.home import Home
from app.room.files import rooms
from tests.app.lab_process import LabProcess, lab_on
from tests.browser.conftest import STILL

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.rare]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabProcess]:
    with lab_on(Home(tmp_path), "--workshop", "--port", "0") as running:
        yield running


def window(browser: Browser, lab: LabProcess, token: str, path: str = "/") -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{lab.address.url}{path}{'&' if '?' in path else '?'}token={token}")
    page.wait_for_function(STILL)
    return page


def test_a_viewer_follows_looks_around_and_predicts(browser: Browser, lab: LabProcess) -> None:
    room = rooms(lab.home)[0]
    presents = window(browser, lab, room.presenters_token, "/learn")
    expect(presents.get_by_text("You present to 0")).to_be_visible()
    follows = window(browser, lab, room.viewers_token)
    expect(follows).to_have_url(f"{lab.address.url}/learn")
    expect(follows.get_by_text("You follow the presenter")).to_be_visible()
    presents.goto(f"{lab.address.url}/learn?lesson=batching")
    expect(follows.get_by_role("button", name="Commit")).to_be_visible()
    assert "lesson=batching" in follows.url
    expect(follows.get_by_text("0 of 1 have answered")).to_be_visible()
    follows.get_by_role("radio").first.check(force=True)
    follows.get_by_role("button", name="Commit").click()
    expect(follows.get_by_text("Your prediction is written down")).to_be_visible()
    expect(presents.get_by_text("1 of 1 have answered")).to_be_visible()
    expect(presents.get_by_text("1 prediction, open")).to_be_visible()

    follows.get_by_role("button", name="Look around alone").click()
    presents.goto(f"{lab.address.url}/papers")
    expect(presents.get_by_text("You present to 1")).to_be_visible()
    follows.get_by_role("link", name="Glossary").click()
    expect(follows).to_have_url(f"{lab.address.url}/glossary")
    follows.get_by_role("button", name="Back to the presenter").click()
    expect(follows).to_have_url(f"{lab.address.url}/papers")

    port = lab.address.port
    lab.stop()
    expect(follows.get_by_text("Connection lost, trying again")).to_be_visible()
    lab._options = ("--workshop", "--port", str(port))
    lab.start()
    expect(follows.get_by_text("You follow the presenter")).to_be_visible()
    presents.goto(f"{lab.address.url}/learn?lesson=batching")
    expect(follows.get_by_text("Your prediction is written down")).to_be_visible()
    for page in (presents, follows):
        page.context.close()
