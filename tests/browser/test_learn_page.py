"""A lesson in a real browser against a real engine: a wrong prediction, a right one, a reload in between, and what a phone shows."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.lessons.reveal import OUTCOMES
from tests.app.lessons.small_lesson import small_lesson
from tests.browser.conftest import OpenLab, stumbling_blocks

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
WIDTHS = (
    "[document.documentElement, document.querySelector('.stMain')].map((part) => part.scrollWidth - part.clientWidth)"
)


def commit(page: Page) -> None:
    page.get_by_role("button", name="Commit and run").click()
    expect(page.get_by_text("You predicted:")).to_be_visible()
    expect(page.get_by_role("button", name="Commit and run")).to_have_count(0)


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_lesson_is_walked_to_its_end(open_lab: OpenLab, open_page: OpenPage) -> None:
    name = small_lesson(open_lab.home)
    page = open_page(open_lab.url(path="/learn"))
    page.locator(f".st-key-open-{name}").get_by_role("button").click()
    expect(page.get_by_role("heading", name="How many run at once")).to_be_visible()
    page.get_by_label("Your number").fill("1")
    commit(page)
    expect(page.locator(".board")).to_be_visible()
    page.reload()  # the prediction and its runs are where they were
    expect(page.get_by_text("You predicted: 1 times")).to_be_visible()
    expect(page.get_by_text(OUTCOMES["wrong"])).to_be_visible()
    expect(page.get_by_text("You said 1 times, and it was 4 times.")).to_be_visible()
    assert stumbling_blocks(page) == []
    page.get_by_role("button", name="Next step").click()
    expect(page.get_by_role("heading", name="Who has more")).to_be_visible()
    choose(page, "1. the smallest", "few")
    choose(page, "2. the largest", "many")
    commit(page)
    expect(page.get_by_text(OUTCOMES["right"])).to_be_visible()
    page.get_by_role("button", name="All lessons").click()
    card = page.locator(f".st-key-lesson-{name}")
    expect(card.get_by_text("done")).to_be_visible()
    page.goto(open_lab.url(path=f"/learn?lesson={name}&step=1"))
    page.get_by_role("button", name="Begin this lesson anew").click()
    expect(page.get_by_role("button", name="Commit and run")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text(OUTCOMES["right"])).to_be_visible()  # the last step, which the learner had come to


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.rare), "dark"])  # of one layout
def test_lessons_fit_a_phone_and_nobody_stumbles(open_lab: OpenLab, open_page: OpenPage, scheme: str) -> None:
    page = open_page(open_lab.url(path="/learn"), width=390, height=844, scheme=scheme)
    expect(page.get_by_role("button", name=re.compile("Begin")).first).to_be_visible()
    assert page.evaluate(WIDTHS) == [0, 0]
    assert stumbling_blocks(page) == []
    page.goto(open_lab.url(path="/learn?lesson=decoding"))
    expect(page.get_by_role("button", name="Commit and run")).to_be_visible()
    assert page.evaluate(WIDTHS) == [0, 0]
    assert stumbling_blocks(page) == []
