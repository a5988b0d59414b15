"""The start panel in a real browser: what is switched on there is what is served."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from app.runs.folder import read_spec
from app.settings import controls as book
from app.words.text import in_sentence
from scenarios import build, load
from telemetry.folder import is_run
from tests.app.small_runs import wait_for, wait_for_state
from tests.browser.conftest import OpenLab
from tests.browser.test_live_page import choose
from tests.open_form import open_more_techniques

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
SCENARIO = "copy-heavy"  # all its requests come at once
TECHNIQUES = {technique.path: technique.title for technique in book.techniques()}


def settle(page: Page) -> None:
    """Wait until the page is drawn."""
    page.wait_for_timeout(800)  # until what was done is on its way to the server
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def switch(page: Page, title: str, on: bool) -> None:
    open_more_techniques(page)
    toggle = page.get_by_test_id("stSidebar").get_by_test_id("stCheckbox").filter(has_text=title)
    if toggle.locator("input").is_checked() != on:
        toggle.get_by_text(title, exact=True).click()
        settle(page)
    assert toggle.locator("input").is_checked() == on


def begun(open_lab: OpenLab, before: set[str]) -> str:
    """The one run that came since: a folder with its spec, which is written last."""

    def new() -> set[str]:
        return {run for run in set(open_lab.home.run_ids()) - before if is_run(open_lab.home.run_dir(run))}

    wait_for(new)
    (run_id,) = new()
    return run_id


@pytest.mark.rare  # five engine runs, one after the other
def test_a_run_is_started_with_each_technique_and_ends_well(open_lab: OpenLab, open_page: OpenPage) -> None:
    page = open_page(open_lab.url())
    choose(page, "Scenario", load(SCENARIO).title)
    choose(page, "Model", "random:tiny")
    for technique, title in TECHNIQUES.items():
        for path, other in TECHNIQUES.items():
            switch(page, other, path == technique)
        before = set(open_lab.home.run_ids())
        start = page.get_by_role("button", name="Start", exact=True)
        expect(start, page.get_by_test_id("stSidebar").inner_text()).to_be_enabled()
        start.click()
        run_id = begun(open_lab, before)
        engine = read_spec(open_lab.home.run_dir(run_id)).engine
        assert [path for path in TECHNIQUES if getattr(engine, path) is not None] == [technique]
        wait_for_state(open_lab.home, run_id, "finished")
        expect(page.get_by_text(f"with {in_sentence(title)}, random:tiny, run {run_id}")).to_be_visible()
        expect(page.get_by_test_id("stMetric").filter(has_text="Requests done")).to_contain_text("12 of 12")
        expect(page.get_by_test_id("stException")).to_have_count(0)


@pytest.fixture(scope="module")
def quick_run(open_lab: OpenLab) -> str:
    """A finished run of a built-in scenario, small."""
    asked = {"model": "random:tiny", "workload.requests": "2", "seed": "5"}
    run_id = open_lab.submit(build(SCENARIO, asked, run_id="quick-run"))
    wait_for_state(open_lab.home, run_id, "finished")
    return run_id


def title_of(page: Page, run_id: str) -> Locator:
    """The line below the title of a run's page. Its page also names the run before it, and both are there while it is drawn anew."""
    return page.get_by_text(f"random:tiny, run {run_id}", exact=False)


def test_back_after_run_again_shows_the_run_before(open_lab: OpenLab, open_page: OpenPage, quick_run: str) -> None:
    page = open_page(open_lab.url(quick_run))
    before = set(open_lab.home.run_ids())
    page.get_by_role("button", name="Run again with").click()
    again = begun(open_lab, before)
    page.wait_for_url(re.compile(f"run={again}"))
    expect(title_of(page, again)).to_be_visible()
    page.go_back()
    page.wait_for_url(re.compile(f"run={quick_run}"))
    expect(title_of(page, quick_run)).to_be_visible()
    wait_for_state(open_lab.home, again, "finished")


def test_a_reload_keeps_what_was_changed_and_the_open_tab(
    open_lab: OpenLab, open_page: OpenPage, quick_run: str
) -> None:
    page = open_page(open_lab.url(quick_run))
    seed = page.get_by_test_id("stSidebar").get_by_label("Seed", exact=True)
    expect(seed).to_have_value("5")
    seed.fill("7")
    seed.press("Tab")
    settle(page)
    page.wait_for_url(re.compile("set=seed%3D7"))
    page.get_by_role("tab", name="Requests").click()
    page.wait_for_url(re.compile("tab=Requests"))
    settle(page)
    page.reload()
    expect(seed).to_have_value("7")
    expect(page.get_by_role("tab", name="Requests")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_text(f"run {quick_run}", exact=False)).to_be_visible()
    page.get_by_role("button", name="Reset:").click()
    settle(page)
    expect(seed).to_have_value("0")
    page.reload()
    expect(seed).to_have_value("0")


def test_more_techniques_stay_open_under_the_keyboard_and_count_what_is_on(
    open_lab: OpenLab, open_page: OpenPage, quick_run: str
) -> None:
    page = open_page(open_lab.url(quick_run))
    sidebar = page.get_by_test_id("stSidebar")
    line = sidebar.get_by_role("button", name="More techniques")
    expect(line).to_have_text("More techniques · none on")
    expect(line).to_have_attribute("aria-expanded", "false")
    line.focus()
    page.keyboard.press("Enter")
    toggle = page.locator(".st-key-technique-preemption input").first
    toggle.focus()
    page.keyboard.press("Space")
    expect(line).to_have_text("More techniques · 1 on")
    expect(sidebar.get_by_label("Host memory (MiB)", exact=True)).to_be_visible()
    expect(toggle).to_be_focused()
    seed = sidebar.get_by_label("Seed", exact=True)
    seed.fill("7")
    seed.press("Tab")
    page.wait_for_url(re.compile("set=seed%3D7"))
    settle(page)
    expect(line).to_have_attribute("aria-expanded", "true")
    line.click()
    expect(toggle).to_have_count(0)
    expect(sidebar.get_by_text("Changed: preemption=on")).to_be_visible()


def test_a_trace_that_is_dropped_is_served(open_lab: OpenLab, open_page: OpenPage, tmp_path: Path) -> None:
    rows = [(3, 10, 4), (3, 12, 5), (4, 9, 3)]  # second of arrival, tokens of prompt and answer
    trace = tmp_path / "my trace.csv"
    text = "".join(f"2023-11-16 18:17:0{second},{prompt},{answer}\n" for second, prompt, answer in rows)
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + text)
    page = open_page(open_lab.url(path=f"/?scenario={SCENARIO}&set=workload.sizing=fixed"), height=2400)
    sidebar = page.get_by_test_id("stSidebar")
    sidebar.get_by_text("Workload", exact=True).click()
    choose(page, "Arrivals", "trace")
    sidebar.locator("input[type=file]").set_input_files(trace)
    expect(sidebar.get_by_role("textbox", name="Trace file")).to_have_value(re.compile("my-trace.csv"))
    before = set(open_lab.home.run_ids())
    sidebar.get_by_role("button", name="Start", exact=True).click()
    run_id = begun(open_lab, before)
    served = read_spec(open_lab.home.run_dir(run_id)).requests
    assert [r.max_tokens for r in served] == [4, 5, 3]
    assert [len(r.prompt_token_ids or ()) or r.prompt_tokens for r in served] == [10, 12, 9]
    assert [r.arrival_ns for r in served] == [0, 0, 1_000_000_000]
    wait_for_state(open_lab.home, run_id, "finished")
    assert (open_lab.home.traces / "my-trace.csv").read_text() == trace.read_text()
