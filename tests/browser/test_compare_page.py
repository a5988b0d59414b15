"""The Compare page in a real browser: followed to its verdict, stopped and let go on, files at hand, texts as texts."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.experiment import Variant, plan
from app.experimentfile import create_experiment, read_experiment
from tests.app.lab_process import scenario_file
from tests.app.small_runs import wait_for
from tests.browser.conftest import OpenLab
from tests.browser.test_live_page import no_sideways_scroll

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
PLANTED = "<b id='planted'>off</b> :red[x]"


@pytest.fixture(scope="module")
def experiment_id(open_lab: OpenLab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small experiment that the lab takes up by itself."""
    variants = (Variant("on", {"chunked_prefill.token_budget": "16"}), Variant(PLANTED, {"chunked_prefill": "off"}))
    experiment, specs = plan(str(scenario_file(tmp_path_factory.mktemp("scenario"))), variants, 2)
    create_experiment(open_lab.home, experiment, specs)
    return experiment.experiment_id


def test_an_experiment_is_followed_to_its_verdict(
    open_lab: OpenLab, experiment_id: str, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(open_lab.url(path=f"/compare?experiment={experiment_id}"))
    expect(page.get_by_text("2 of 2 repeats")).to_be_visible()
    expect(page.get_by_role("heading", name="Compare")).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(6)
    assert page.locator("#planted").count() == 0
    assert page.locator(".js-plotly-plot [data-title*='Share']").count() == 0
    with page.expect_download() as download:
        page.get_by_role("button", name="All rows").click()
    file = tmp_path / "taken.servescope"
    download.value.save_as(file)
    assert "manifest.json" in zipfile.ZipFile(file).namelist()
    page.get_by_role("button", name="Import").first.click()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Take it in").click()
    expect(page.get_by_text("4 were here already")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen(open_lab: OpenLab, experiment_id: str, open_page: OpenPage, scheme: str) -> None:
    wait_for(lambda: read_experiment(open_lab.home, experiment_id).state == "finished")
    page = open_page(open_lab.url(path=f"/compare?experiment={experiment_id}"), width=390, scheme=scheme)
    expect(page.locator(".js-plotly-plot")).to_have_count(6)
    assert no_sideways_scroll(page)


def test_the_form_starts_an_experiment_that_can_be_stopped(open_lab: OpenLab, open_page: OpenPage) -> None:
    before = set(open_lab.home.experiment_ids())
    page = open_page(open_lab.url(path="/compare?scenario=starter&technique=chunked_prefill"))
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Run 1 of 11")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped after")).to_be_visible()
    (started,) = set(open_lab.home.experiment_ids()) - before
    assert read_experiment(open_lab.home, started).state == "paused"
    assert [v.settings for v in read_experiment(open_lab.home, started).variants] == [{}, {"chunked_prefill": "off"}]


def test_an_unknown_experiment_is_said(open_lab: OpenLab, open_page: OpenPage) -> None:
    page = open_page(open_lab.url(path="/compare?experiment=x-nothing"))
    expect(page.get_by_text("There is no experiment")).to_be_visible()
