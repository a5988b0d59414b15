"""A connection that is gone for 20 s, in the middle of a lesson in front of a room: nothing that anybody said or made is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect

from app.home import Home
from app.lessons.reveal import OUTCOMES
from app.room.files import rooms
from tests.app.lab_process import LabProcess, lab_on
from tests.app.lessons.small_lesson import small_lesson
from tests.browser.conftest import PATIENCE_MS, STILL

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.rare]
GONE_MS = 20_000


class Line:
    """A window's connection to the lab, which can be cut: its sockets end, and neither they nor requests get through."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.is_cut = False
        self._open: list[tuple[WebSocketRoute, WebSocketRoute]] = []
        page.route_web_socket(re.compile(".*"), self._take)

    def _take(self, here: WebSocketRoute) -> None:
        if self.is_cut:
            here.close()
        else:
            self._open.append((here, here.connect_to_server()))

    def cut(self) -> None:
        self.is_cut = True
        self.page.context.set_offline(True)
        for here, there in self._open:
            there.close()
            here.close()
        self._open.clear()

    def mend(self) -> None:
        self.is_cut = False
        self.page.context.set_offline(False)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabProcess]:
    with lab_on(Home(tmp_path), "--workshop", "--port", "0") as running:
        yield running


def window(browser: Browser, lab: LabProcess, token: str, path: str) -> tuple[Page, Line]:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    line = Line(page)
    page.goto(f"{lab.address.url}{path}{'&' if '?' in path else '?'}token={token}")
    page.wait_for_function(STILL)
    return page, line


def gone_for_20_s(*lines: Line) -> None:
    for line in lines:
        line.cut()
        expect(line.page.get_by_text("Connection lost, trying again; nothing is lost")).to_be_visible()
    lines[0].page.wait_for_timeout(GONE_MS)
    for line in lines:
        line.mend()
        expect(line.page.get_by_text("Connection lost")).to_have_count(0)


def test_what_was_typed_predicted_and_measured_is_there_afterwards(browser: Browser, lab: LabProcess) -> None:
    name, room = small_lesson(lab.home), rooms(lab.home)[0]
    presents, presenters_line = window(browser, lab, room.presenters_token, f"/learn?lesson={name}")
    expect(presents.get_by_text("You present to 0")).to_be_visible()
    follows, viewers_line = window(browser, lab, room.viewers_token, "/")
    follows.get_by_label("Your number").fill("4")
    follows.keyboard.press("Tab")
    gone_for_20_s(viewers_line)
    expect(follows.get_by_label("Your number")).to_have_value("4.00")
    follows.get_by_role("button", name="Commit").click()
    expect(follows.get_by_text("Your prediction is written down")).to_be_visible()
    expect(presents.get_by_text("1 of 1 have answered")).to_be_visible()

    presents.get_by_label("Your number").fill("1")
    presents.get_by_role("button", name="Commit and run").click()
    expect(presents.get_by_text("You predicted:")).to_be_visible()
    gone_for_20_s(presenters_line, viewers_line)
    expect(presents.get_by_text("You predicted: 1 times")).to_be_visible()
    expect(presents.get_by_text(OUTCOMES["wrong"])).to_be_visible()
    expect(follows.get_by_text("You predicted: 4 times")).to_be_visible()
    expect(follows.get_by_text(OUTCOMES["right"])).to_be_visible()
    assert f"lesson={name}" in follows.url
    for page in (presents, follows):
        page.context.close()
