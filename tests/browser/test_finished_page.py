"""A finished run in a real browser: its address opens it, its texts stay texts, its data is one click away."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.small_runs import small_spec, wait_for, wait_for_state
from tests.browser.conftest import OpenLab
from tests.browser.test_live_page import no_sideways_scroll

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]


def test_the_address_of_a_finished_run_opens_it_with_every_chart(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(finished_run))
    for title in (
        "Iterations",
        "Gap before every token",
        "What each iteration computed",
        "Running and waiting",
        "KV pool",
        "Roofline",
    ):
        expect(page.get_by_test_id("stMain").get_by_text(title, exact=True).first).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(9)
    expect(page.get_by_text("6 of 6")).to_be_visible()
    expect(page.get_by_text("random weights").first).to_be_visible()
    assert page.locator(".js-plotly-plot [data-title*='Share']").count() == 0


def test_a_title_that_looks_like_markup_is_shown_as_text(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(finished_run))
    expect(page.get_by_role("heading", name="<b id='planted'>a title</b> :red[x]")).to_be_visible()
    assert page.locator("#planted").count() == 0


def test_a_prompt_that_looks_like_markup_is_shown_as_text(open_lab: OpenLab, open_page: OpenPage) -> None:
    planted = "<img id='planted' src=x onerror=\"document.title='taken'\"> **now** $x^2$"
    spec = small_spec("markup-run", requests=1, tokens=4)
    asked = spec.requests[0].model_copy(update={"prompt": planted, "prompt_token_ids": None})
    open_lab.submit(spec.model_copy(update={"requests": (asked,)}))
    wait_for_state(open_lab.home, "markup-run", "finished")
    page = open_page(open_lab.url("markup-run"))
    page.get_by_role("tab", name="Requests").click()
    table = page.locator("[data-testid='stDataFrame']").filter(visible=True)
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 18, box["y"] + 52)  # the first row's tick box: the table is a canvas
    expect(page.get_by_text(planted, exact=True)).to_be_visible()
    assert page.locator("#planted").count() == 0
    assert page.title() == "ServeScope"


def test_data_and_question_behind_a_chart_are_one_click_away(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(open_lab.url(finished_run))
    card = page.locator(".st-key-card-iterations")
    with page.expect_download() as download:
        card.get_by_role("button", name="CSV").click()
    path = tmp_path / "iterations.csv"
    download.value.save_as(path)
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(rows) > 10
    assert float(rows[0]["duration_ms"]) > 0
    card.get_by_role("button", name="SQL").click()
    expect(page.get_by_text("FROM iterations WHERE run_id", exact=False).first).to_be_visible()


def test_an_iteration_is_taken_apart(open_lab: OpenLab, finished_run: str, open_page: OpenPage) -> None:
    page = open_page(open_lab.url(finished_run))
    page.get_by_role("tab", name="Iterations").click()
    expect(page.get_by_text("held a place and", exact=False)).to_be_visible()
    expect(page.get_by_text("Who computed what")).to_be_visible()


def test_an_unknown_run_is_named_in_words(open_lab: OpenLab, finished_run: str, open_page: OpenPage) -> None:
    page = open_page(open_lab.url("finished-rum"))
    expect(page.get_by_text("There is no run 'finished-rum'.", exact=False)).to_be_visible()
    expect(page.get_by_text("finished-run", exact=False).first).to_be_visible()


def test_the_list_opens_and_deletes_and_takes_it_back(open_lab: OpenLab, open_page: OpenPage) -> None:
    open_lab.submit(small_spec("to-delete", requests=1, tokens=2))
    wait_for_state(open_lab.home, "to-delete", "finished")
    page = open_page(open_lab.url(path="/runs"))
    page.get_by_placeholder("name, scenario, label, model or id").fill("to-delete")
    expect(page.get_by_text("1 run. Choose a row", exact=False)).to_be_visible()
    box = page.locator("[data-testid='stDataFrame']").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 18, box["y"] + 52)
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Deleted: A small run")).to_be_visible()
    wait_for(lambda: not open_lab.home.run_dir("to-delete").exists())
    page.get_by_role("button", name="Undo").click()
    wait_for(open_lab.home.run_dir("to-delete").exists)
    expect(page.get_by_text("1 run. Choose a row", exact=False)).to_be_visible()


def test_a_phone_shows_a_finished_run_without_scrolling_sideways(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(finished_run), width=390, height=844)
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    assert no_sideways_scroll(page)
