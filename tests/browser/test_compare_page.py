"""The Compare page in a real browser: followed to its verdict, stopped and let go on, files at hand, texts as texts."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.experiments.file import create_experiment, read_experiment
from app.experiments.plan import Variant, plan
from app.experiments.rate_search import plan_capacity
from tests.app.lab_process import scenario_file
from tests.app.small_runs import wait_for
from tests.browser.conftest import OpenLab, stumbling_blocks
from tests.browser.test_live_page import no_sideways_scroll

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]
PLACE = """([chart, trace]) => {
  const plot = document.querySelector(`.st-key-chart-${chart} .js-plotly-plot`);
  const data = plot._fullData[trace], layout = plot._fullLayout, box = plot.getBoundingClientRect();
  const x = layout.xaxis, y = layout[(data.yaxis || "y").replace("y", "yaxis")], middle = Math.floor(data.x.length / 2);
  return [box.left + x._offset + x.d2p(data.x[middle]), box.top + y._offset + y.d2p(data.y[middle])];
}"""  # where a point of a chart is on the screen
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
    page = open_page(open_lab.url(path=f"/compare?experiment={experiment_id}"), height=4500)
    expect(page.get_by_text("2 of 2 repeats")).to_be_visible()
    expect(page.get_by_role("heading", name="Compare")).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(7)
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


def test_a_chart_is_saved_as_a_picture_as_it_is_drawn(
    open_lab: OpenLab, experiment_id: str, open_page: OpenPage, tmp_path: Path
) -> None:
    wait_for(lambda: read_experiment(open_lab.home, experiment_id).state == "finished")
    page = open_page(open_lab.url(path=f"/compare?experiment={experiment_id}"), height=4500)
    expect(page.locator(".js-plotly-plot")).to_have_count(7)
    for words, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as download:
            page.locator(".st-key-files-cdf-ttft_ms").get_by_role("button", name=words, exact=True).click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        assert file.name == f"cdf-ttft_ms.{words.lower()}"
        assert file.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("chart", "trace", "lands"),
    [
        ("cdf-ttft_ms", 0, r"run=.+&request=\d"),
        pytest.param("cdf-itl_ms", 0, r"run=.+&iteration=\d", marks=pytest.mark.rare),
        ("timelines", 1, r"run=.+&iteration=\d"),
        pytest.param("plane", 1, r"run=.+", marks=pytest.mark.rare),
    ],
)
@pytest.mark.sampled(3)
def test_a_click_on_a_point_opens_what_it_stands_for(
    open_lab: OpenLab, experiment_id: str, open_page: OpenPage, chart: str, trace: int, lands: str
) -> None:
    wait_for(lambda: read_experiment(open_lab.home, experiment_id).state == "finished")
    page = open_page(open_lab.url(path=f"/compare?experiment={experiment_id}"), height=4500)
    expect(page.locator(".js-plotly-plot")).to_have_count(7)
    page.wait_for_timeout(1000)
    x, y = page.evaluate(PLACE, [chart, trace])
    page.mouse.move(x, y)
    page.wait_for_timeout(300)
    page.mouse.click(x, y)
    page.wait_for_url(re.compile(lands))
    expect(page.get_by_role("heading", name="A small run")).to_be_visible()


@pytest.mark.rare  # the form's search is followed in every run
def test_a_search_for_capacity_is_followed_to_its_end(open_lab: OpenLab, open_page: OpenPage, tmp_path: Path) -> None:
    path = scenario_file(tmp_path)
    path.write_text(path.read_text().replace("{kind: at-once}", "{kind: interval, every_s: 0.05}"))
    variants = [Variant("a"), Variant(PLANTED)]
    slo = "ttft=60000,tpot=60000"
    experiment, specs = plan_capacity(str(path), variants, low=20, high=40, tolerance=0.9, slo=slo)
    create_experiment(open_lab.home, experiment, specs)
    page = open_page(open_lab.url(path=f"/compare?experiment={experiment.experiment_id}"), height=4500)
    expect(page.get_by_text("a: at least 40 requests/s")).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(1)
    assert page.locator("#planted").count() == 0
    wait_for(lambda: read_experiment(open_lab.home, experiment.experiment_id).state == "finished")
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert stumbling_blocks(page) == []
        assert no_sideways_scroll(page)


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.rare), "dark"])  # of one layout
def test_it_fits_a_narrow_screen(open_lab: OpenLab, experiment_id: str, open_page: OpenPage, scheme: str) -> None:
    wait_for(lambda: read_experiment(open_lab.home, experiment_id).state == "finished")
    page = open_page(open_lab.url(path=f"/compare?experiment={experiment_id}"), width=390, height=6000, scheme=scheme)
    expect(page.locator(".js-plotly-plot")).to_have_count(7)
    assert no_sideways_scroll(page)
    assert stumbling_blocks(page) == []


def test_the_form_starts_an_experiment_that_can_be_stopped(open_lab: OpenLab, open_page: OpenPage) -> None:
    before = set(open_lab.home.experiment_ids())
    page = open_page(open_lab.url(path="/compare?scenario=starter&technique=chunked_prefill"))
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Run 1 of 11")).to_be_visible()
    page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped after")).to_be_visible()
    (started,) = set(open_lab.home.experiment_ids()) - before
    assert read_experiment(open_lab.home, started).state == "paused"
    assert [v.settings for v in read_experiment(open_lab.home, started).variants] == [{}, {"chunked_prefill": "off"}]


def test_an_unknown_experiment_is_said(open_lab: OpenLab, open_page: OpenPage) -> None:
    page = open_page(open_lab.url(path="/compare?experiment=x-nothing"))
    expect(page.get_by_text("There is no experiment")).to_be_visible()


def test_the_form_of_a_search_leads_to_its_result(open_lab: OpenLab, open_page: OpenPage) -> None:
    before = set(open_lab.home.experiment_ids())
    settings = "set=model=random:tiny&set=workload.sizing=fixed&set=workload.requests=4"
    settings += "&set=workload.output_tokens.kind=fixed&set=workload.output_tokens.tokens=4"
    fields = "form=repeats=1&form=low=30&form=high=60"
    page = open_page(open_lab.url(path=f"/compare?scenario=burst&{settings}&{fields}"), height=1800)
    page.get_by_test_id("stSidebar").get_by_role("tab", name="Capacity").click()
    page.get_by_test_id("stSidebar").get_by_role("button", name="Search", exact=True).click()
    wait_for(lambda: set(open_lab.home.experiment_ids()) - before)
    (started,) = set(open_lab.home.experiment_ids()) - before
    wait_for(lambda: read_experiment(open_lab.home, started).state == "finished")
    expect(page.locator(".st-key-card-rates .js-plotly-plot")).to_be_visible()
    search = read_experiment(open_lab.home, started).search
    assert search is not None
    assert (search.low, search.high) == (30, 60)
    assert stumbling_blocks(page) == []
    page.set_viewport_size({"width": 390, "height": 900})
    wait_for(lambda: no_sideways_scroll(page))


def test_the_form_of_a_sweep_leads_to_its_curve(open_lab: OpenLab, open_page: OpenPage) -> None:
    """Two values come with the address, a third one is typed."""
    before = set(open_lab.home.experiment_ids())
    settings = "set=model=random:tiny&set=workload.sizing=fixed&set=workload.requests=4"
    settings += "&set=workload.output_tokens.kind=fixed&set=workload.output_tokens.tokens=4"
    fields = "form=repeats=1&form=over.0=chunked_prefill.token_budget&form=values.0=32,64"
    page = open_page(open_lab.url(path=f"/compare?scenario=burst&{settings}&{fields}"), height=1800)
    sidebar = page.get_by_test_id("stSidebar")
    sidebar.get_by_role("tab", name="Sweep").click()
    values = sidebar.get_by_role("combobox", name="Its values")
    values.fill("48")
    values.press("Enter")
    values.press("Escape")  # an open list hides the rest from a screen reader
    expect(sidebar.get_by_text("3 combinations")).to_be_visible()
    sidebar.get_by_role("button", name="Sweep", exact=True).click()
    wait_for(lambda: set(open_lab.home.experiment_ids()) - before)
    (started,) = set(open_lab.home.experiment_ids()) - before
    wait_for(lambda: read_experiment(open_lab.home, started).state == "finished")
    curve, table = page.locator(".st-key-card-swept .js-plotly-plot"), page.get_by_test_id("stDataFrame").first
    expect(curve).to_be_visible()
    expect(table).to_be_visible()
    above, below = curve.bounding_box(), table.bounding_box()
    assert above is not None
    assert below is not None
    assert above["y"] < below["y"], "the curve first, then its tables"
    experiment = read_experiment(open_lab.home, started)
    assert (experiment.kind, experiment.over) == ("sweep", {"chunked_prefill.token_budget": ("32", "64", "48")})
    assert stumbling_blocks(page) == []
