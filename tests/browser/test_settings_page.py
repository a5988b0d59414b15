"""Settings and workload in a real browser: set, estimated, saved, carried by a link, taken from a run, compared."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from app.experiments.file import read_experiment, read_specs
from app.runs.folder import read_spec
from scenarios import load
from tests.app.small_runs import wait_for, wait_for_state
from tests.browser.conftest import OpenLab, stumbling_blocks
from tests.browser.test_form_page import begun, settle
from tests.browser.test_live_page import choose, no_sideways_scroll

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
ASKED = "scenario=copy-heavy&set=model=random:tiny"


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    settle(page)


def popover(page: Page, name: str) -> None:
    settle(page)
    page.get_by_test_id("stSidebar").get_by_test_id("stPopoverButton").filter(has_text=name).first.click()
    settle(page)


def test_own_prompts_are_set_estimated_served_saved_and_taken_from_the_run(
    open_lab: OpenLab, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(path=f"/?{ASKED}"))
    expect(page.get_by_text("blocks", exact=False).first).to_be_visible()
    settle(page)
    page.locator("[class*=st-key-workload-] summary").click()
    settle(page)
    choose(page, "Prompts", "texts")
    page.get_by_role("textbox", name="Your prompts").fill("Why?\nHow <b id='planted'>so</b>?")
    page.get_by_role("spinbutton", name="Number of requests").fill("4")
    page.get_by_role("spinbutton", name="Number of requests").press("Tab")
    settle(page)
    choose(page, "Arrivals", "closed-loop")
    page.get_by_role("spinbutton", name="Concurrency (clients)").fill("2")
    page.get_by_role("spinbutton", name="Concurrency (clients)").press("Tab")
    settle(page)
    assert stumbling_blocks(page) == []
    popover(page, "Save as")
    page.get_by_role("textbox", name="Name", exact=True).first.fill("my-prompts")
    page.get_by_role("textbox", name="Name", exact=True).first.press("Tab")
    press(page, "Save as a scenario of mine")
    expect(page.get_by_text("Saved as my-prompts", exact=False)).to_be_visible()
    assert load(open_lab.home.scenarios / "my-prompts.yaml").workload
    before = set(open_lab.home.run_ids())
    press(page, "Start")
    run_id = begun(open_lab, before)
    spec = read_spec(open_lab.home.run_dir(run_id))
    assert (spec.scenario, spec.engine.model) == ("my-prompts", "random:tiny")
    assert [request.prompt for request in spec.requests] == ["Why?", "How <b id='planted'>so</b>?"] * 2
    assert sum(request.after is None for request in spec.requests) == 2
    wait_for_state(open_lab.home, run_id, "finished")
    assert page.locator("#planted").count() == 0


def test_a_preset_is_taken_and_a_link_carries_it_to_somebody_else(open_lab: OpenLab, open_page: OpenPage) -> None:
    page = open_page(open_lab.url(path=f"/?{ASKED}&set=workload.requests=3"))
    popover(page, "Presets")
    choose(page, "Settings", "as Orca did")
    press(page, "Take them")
    page.keyboard.press("Escape")
    popover(page, "Link")
    link = page.get_by_test_id("stCode").filter(has_text="?scenario=").first.inner_text()
    asked = parse_qs(urlsplit(link.strip()).query)
    assert asked["scenario"] == ["copy-heavy"]
    assert {"policy=orca", "model=random:tiny"} <= set(asked["set"])
    assert [text for text in asked["set"] if text.startswith("workload")] == ["workload.rewrite.requests=3"]
    other = open_page(open_lab.url(path="/?" + urlsplit(link.strip()).query))
    expect(other.get_by_text("settings differ from the scenario", exact=False)).to_be_visible()
    before = set(open_lab.home.run_ids())
    press(other, "Start")
    spec = read_spec(open_lab.home.run_dir(begun(open_lab, before)))
    assert (spec.engine.policy, spec.engine.chunked_prefill, len(spec.requests)) == ("orca", None, 3)
    wait_for_state(open_lab.home, spec.run_id, "finished")
    third = open_page(open_lab.url(spec.run_id))
    third.get_by_text("Use its settings").first.click()
    third.get_by_role("link", name="Compare with its settings").first.click()
    third.wait_for_url("**/compare**")
    expect(third.get_by_text("policy=orca", exact=False).first).to_be_visible()


def test_two_systems_are_compared_without_a_typed_name(open_lab: OpenLab, open_page: OpenPage) -> None:
    before = set(open_lab.home.experiment_ids())
    page = open_page(open_lab.url(path=f"/compare?{ASKED}&set=workload.requests=2&form=repeats=1"), height=1800)
    presets = page.get_by_role("combobox", name="Preset")
    expect(presets).to_have_count(2)
    for n, title in enumerate(("as vLLM does", "as Orca did")):
        presets.nth(n).click()
        page.get_by_role("option", name=title, exact=True).click()
        settle(page)
    assert stumbling_blocks(page) == []
    assert no_sideways_scroll(page)
    press(page, "Compare")
    wait_for(lambda: set(open_lab.home.experiment_ids()) - before)
    (started,) = set(open_lab.home.experiment_ids()) - before
    experiment = read_experiment(open_lab.home, started)
    engines = [read_specs(open_lab.home, experiment)[variant.name].engine for variant in experiment.variants]
    assert [engine.resolved_policy for engine in engines] == ["stall-free", "orca"]
    assert {engine.model for engine in engines} == {"random:tiny"}
    wait_for(lambda: read_experiment(open_lab.home, started).state == "finished")
    expect(page.get_by_text("1 of 1 repeats")).to_be_visible()
