"""Getting into the lab as a person does: by the printed address, by pasting, after a restart, and being told when it does not work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.home import Home
from app.server.client import page_address
from tests.app.lab_process import LabProcess, free_port
from tests.app.small_runs import small_spec
from tests.browser.conftest import PATIENCE_MS

pytestmark = pytest.mark.browser
TITLE = "This lab is up, but this browser has no key to it"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabProcess]:
    """On a port of its own, so that it can come back at the same address."""
    running = LabProcess(Home(tmp_path / "home"), "--port", str(free_port())).start()
    yield running
    running.stop()


@pytest.fixture
def new_browser(browser: Browser) -> Iterator[Callable[[], Page]]:
    """A page of a browser that was never here. What it says on its console is not judged: a lab that goes away is loud."""
    contexts = []

    def another() -> Page:
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        return page

    yield another
    for context in contexts:
        context.close()


def test_from_the_printed_address_to_a_restart(lab: LabProcess, new_browser: Callable[[], Page]) -> None:
    run_id = lab.submit(small_spec())
    printed = page_address(lab.address)
    page = new_browser()
    page.goto(printed)
    shows_the_lab(page)
    assert "token" not in page.url, "the address bar keeps no key"
    page.reload()
    shows_the_lab(page)
    tab = page.context.new_page()
    tab.goto(f"{lab.address.url}/?run={run_id}")
    shows_the_lab(tab)

    stranger = new_browser()
    stranger.goto(printed)
    expect(stranger.get_by_role("alert")).to_contain_text("used already")
    stranger.goto(f"{lab.address.url}/runs")
    expect(stranger.get_by_role("heading", name=TITLE)).to_be_visible()
    stranger.get_by_label("Address or token").fill("wrong")
    stranger.get_by_role("button").click()
    expect(stranger.get_by_role("alert")).to_contain_text("no token of this lab")
    stranger.get_by_label("Address or token").fill(lab.address.token)
    stranger.get_by_role("button").click()
    stranger.wait_for_url(f"{lab.address.url}/runs")
    shows_the_lab(stranger)

    lab.stop()
    lab.start()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-connection-state", "CONNECTED")
    page.get_by_role("link", name="Runs").click()  # a page that was open all the while goes on
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(page.get_by_text("A small run", exact=True).first).to_be_attached()


def test_a_page_that_lost_its_key_says_so(lab: LabProcess, new_browser: Callable[[], Page]) -> None:
    page = new_browser()
    page.goto(page_address(lab.address))
    shows_the_lab(page)
    lab.stop()
    lab.home.entrance_file.unlink()
    lab.start()
    expect(page.get_by_role("dialog")).to_contain_text("Load the page again to sign in")
    page.reload()
    expect(page.get_by_role("heading", name=TITLE)).to_be_visible()


def shows_the_lab(page: Page) -> None:
    expect(page.get_by_test_id("stSidebar").or_(page.get_by_test_id("stAppViewContainer")).first).to_be_visible()
