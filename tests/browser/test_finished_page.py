"""A finished run in a real browser: its address opens it, its texts stay texts, its data is one click away."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Page, expect

from app.runs.notes import read_notes
from tests.app.small_runs import small_spec, wait_for, wait_for_state
from tests.browser.conftest import OpenLab, stumbling_blocks, tick_first_row
from tests.browser.test_compare_page import PLACE
from tests.browser.test_live_page import no_sideways_scroll

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OpenPage = Callable[..., Page]


def test_the_address_of_a_finished_run_opens_it_with_every_chart(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(finished_run), height=4000)
    for title in (
        "Iterations",
        "ITL of every token",
        "Batch composition",
        "Running and waiting requests",
        "KV pool",
        "Roofline",
    ):
        expect(page.get_by_test_id("stMain").get_by_text(title, exact=True).first).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(8)
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
    page.get_by_test_id("stDataFrame").filter(visible=True).scroll_into_view_if_needed()
    tick_first_row(page)
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


TIMES = ("iterations", "token-gaps", "batch-makeup", "queue", "kv-pool", "device", "memory")
RANGES = """() => Object.fromEntries([...document.querySelectorAll(".js-plotly-plot")].filter((p) => p._fullLayout.meta === "time")
  .map((p) => [/st-key-chart-([a-z-]+)/.exec(p.closest("[class*=st-key-chart-]").className)[1], p._fullLayout.xaxis.range]))"""


HOVERED = """(name) => [...document.querySelectorAll(`.st-key-chart-${name} .hoverlayer .line`)].map((line) => line.textContent).join("\\n")"""
"""Line by line: the text of a whole label would put a number before the digits of the next line."""


def ranges(page: Page) -> dict[str, list[float]]:
    """The stretch of time that each chart over time shows, in s."""
    return dict(page.evaluate(RANGES))


def test_charts_over_time_show_one_stretch_and_zoom_as_one(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(finished_run), height=3000)
    wait_for(lambda: set(ranges(page)) == set(TIMES))
    whole = ranges(page)["iterations"]
    assert all(shown == whole for shown in ranges(page).values())
    plot = page.locator(".st-key-chart-batch-makeup .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 62, steps=5)
    page.mouse.up()
    wait_for(lambda: ranges(page)["memory"] != whole)
    near = ranges(page)["batch-makeup"]
    assert near == pytest.approx([whole[1] * 0.25, whole[1] * 0.5], rel=0.1)
    wait_for(lambda: all(shown == pytest.approx(near) for shown in ranges(page).values()))
    for _ in range(20):  # on a busy machine the second click may come too late to make the first a double one
        plot.dblclick(position={"x": 200, "y": 4})  # above the bars: a single click on one opens its iteration
        page.wait_for_timeout(1000)
        if all(shown == pytest.approx(whole) for shown in ranges(page).values()):
            break
    else:
        pytest.fail(f"still {ranges(page)}")


@pytest.mark.parametrize(
    ("chart", "part", "told"),
    [
        ("iterations", "iteration", "held a place and"),
        pytest.param("batch-makeup", "iteration", "held a place and", marks=pytest.mark.rare),
        pytest.param("roofline", "iteration", "held a place and", marks=pytest.mark.rare),
        ("token-gaps", "request", "Asked"),
    ],
)
def test_a_click_on_a_mark_opens_what_its_hover_names(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage, chart: str, part: str, told: str
) -> None:
    page = open_page(open_lab.url(finished_run), height=3000)
    wait_for(lambda: set(ranges(page)) == set(TIMES))
    page.wait_for_timeout(1000)
    opens = f"""(name) => document.querySelector(`.st-key-chart-${{name}} .js-plotly-plot`)._fullData.findIndex((t) => t.meta?.opens === "{part}")"""
    x, y = page.evaluate(PLACE, [chart, page.evaluate(opens, chart)])
    page.mouse.move(x, y + 2)
    page.wait_for_timeout(300)
    expect(page.locator(f".st-key-chart-{chart} .hoverlayer")).to_contain_text(f"{part} ")
    named = re.search(rf"{part} (\d+)", page.evaluate(HOVERED, chart))
    assert named is not None
    page.mouse.click(x, y + 2)
    page.wait_for_url(re.compile(rf"run={finished_run}&{part}={named[1]}$"))
    expect(page.get_by_text(told, exact=False).filter(visible=True).first).to_be_visible()
    tab = "Iterations" if part == "iteration" else "Requests"
    expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")


def test_an_iteration_is_taken_apart(open_lab: OpenLab, finished_run: str, open_page: OpenPage) -> None:
    page = open_page(open_lab.url(finished_run))
    page.get_by_role("tab", name="Iterations").click()
    expect(page.get_by_text("held a place and", exact=False)).to_be_visible()
    expect(page.get_by_text("Who computed what")).to_be_visible()


def test_an_iteration_is_followed_by_address_and_kv_map_and_opens_its_requests(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(f"{finished_run}&iteration=3"), height=1600)
    expect(page.get_by_text("Iteration 3 took", exact=False)).to_be_visible()
    page.get_by_role("button", name="Next").first.click()
    expect(page.get_by_text("Iteration 4 took", exact=False)).to_be_visible()
    expect(page.get_by_text("After iteration 4, of 600 blocks", exact=False)).to_be_visible()
    page.wait_for_url(re.compile(r"iteration=4\b"))
    map_at_four = page.get_by_text("After iteration 4, of 600 blocks", exact=False).filter(visible=True)
    page.get_by_role("tab", name="KV cache").click()
    expect(map_at_four).to_be_visible()
    page.get_by_test_id("stTopNav").get_by_role("link", name="Runs").click()
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    page.get_by_test_id("stTopNav").get_by_role("link", name="Live").click()
    expect(map_at_four).to_be_visible()
    page.wait_for_url(re.compile(rf"run={finished_run}&iteration=4&tab=KV"))
    page.get_by_role("tab", name="Iterations").click()
    page.get_by_label("The batch, a bar for each request").locator("canvas").click(position={"x": 150, "y": 8})
    expect(page.get_by_role("tab", name="Requests")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_text("Why not sooner", exact=True)).to_be_visible()


def test_a_picture_is_saved_as_drawn(open_lab: OpenLab, finished_run: str, open_page: OpenPage) -> None:
    page = open_page(open_lab.url(f"{finished_run}&iteration=4"), height=2400)
    buttons = page.get_by_role("group", name="This picture as a file")
    expect(buttons.nth(1)).to_be_visible()  # the iteration, the KV map, and what follows them
    said: list[str] = []
    for picture in (buttons.nth(0), buttons.nth(1)):
        with page.expect_download() as download:
            picture.get_by_role("button", name="SVG").click()
        root = ElementTree.fromstring(Path(download.value.path()).read_text(encoding="utf-8"))
        told = " ".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text"))
        shapes = {node.tag.rpartition("}")[2] for node in root.iter()}
        said.append(f"{download.value.suggested_filename}: {told}")
        assert {"rect", "text", "svg"} <= shapes
        with page.expect_download() as download:
            picture.get_by_role("button", name="PNG").click()
        assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as download:
        page.locator(".st-key-csv-kv-map").get_by_role("button").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    assert [row["block"] for row in rows if row["state"] == "used"] == [str(n) for n in range(8)]
    assert said[0].startswith("iteration.svg: ")
    assert "Iteration 4 took" in said[0]
    assert "Roofline" in said[0]
    assert said[1].startswith("kv-map.svg: ")
    assert "After iteration 4, of 600 blocks" in said[1]


def test_an_unknown_run_is_named_in_words(open_lab: OpenLab, finished_run: str, open_page: OpenPage) -> None:
    page = open_page(open_lab.url("finished-rum"))
    expect(page.get_by_text("There is no run 'finished-rum'.", exact=False)).to_be_visible()
    expect(page.get_by_text("finished-run", exact=False).first).to_be_visible()


def test_the_list_finds_tags_deletes_and_takes_it_back(open_lab: OpenLab, open_page: OpenPage) -> None:
    open_lab.submit(small_spec("to-delete", requests=1, tokens=2))
    wait_for_state(open_lab.home, "to-delete", "finished")
    page = open_page(open_lab.url(path="/runs"))
    page.get_by_placeholder("name, notes, tag, scenario, label, model or id").fill("to-delete")
    expect(page.get_by_text("1 run. Choose a row", exact=False)).to_be_visible()
    tick_first_row(page)
    page.locator(".st-key-chosen").get_by_role("combobox", name="Tags").fill("my own")
    page.keyboard.press("Enter")
    wait_for(lambda: read_notes(open_lab.home, "to-delete").tags == ("my own",))
    page.keyboard.press("Escape")
    tagged = open_page(open_lab.url(path="/runs?tag=my+own"))
    expect(tagged.get_by_text("1 run. Choose a row", exact=False)).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Deleted: A small run")).to_be_visible()
    wait_for(lambda: not open_lab.home.run_dir("to-delete").exists())
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)  # no other run is under the pointer now
    page.reload()
    expect(page.get_by_text("Deleted: A small run")).to_be_visible()
    expect(page.get_by_text("Trash: 1 deletion")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    wait_for(open_lab.home.run_dir("to-delete").exists)
    expect(page.get_by_text("Trash:", exact=False)).to_have_count(0)


def test_a_row_that_was_chosen_is_not_chosen_again_in_another_list(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(path="/runs"))
    expect(page.get_by_text("Choose a row", exact=False)).to_be_visible()
    tick_first_row(page)
    expect(page.get_by_role("button", name="Delete")).to_be_visible()
    open_lab.submit(small_spec("came-later", requests=1, tokens=2))
    page.get_by_placeholder("name, notes, tag, scenario, label, model or id").fill("small")
    expect(page.get_by_text("came-later", exact=False).first).to_be_attached()
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    wait_for_state(open_lab.home, "came-later", "finished")


def test_a_phone_shows_a_finished_run_without_scrolling_sideways(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(finished_run), width=390, height=844)
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    assert no_sideways_scroll(page)
    assert stumbling_blocks(page) == []


def test_a_chart_is_drawn_once_a_reader_comes_near_it(
    open_lab: OpenLab, finished_run: str, open_page: OpenPage
) -> None:
    page = open_page(open_lab.url(finished_run), height=500)
    card = page.locator(".st-key-card-memory")
    expect(page.locator(".st-key-card-iterations .js-plotly-plot")).to_be_visible()
    expect(page.locator(".lab-still")).to_be_hidden()  # the chart has taken its picture's place
    expect(card.get_by_role("button", name="CSV")).to_be_attached()
    assert card.locator(".js-plotly-plot").count() == 0
    room = card.bounding_box()
    card.scroll_into_view_if_needed()
    expect(card.locator(".js-plotly-plot")).to_be_visible()
    drawn = card.bounding_box()
    assert room is not None
    assert drawn is not None
    assert drawn["height"] == pytest.approx(room["height"], abs=4), "nothing jumps"
