"""The tour of a first visit and the speaker's second window, as scripts in a real browser before pages of a few lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from app.components.full_screen import FOLDER as FULL_SCREEN
from app.components.second_window import FOLDER as SECOND_WINDOW
from app.components.tour import FOLDER as TOUR

pytestmark = pytest.mark.browser
ORIGIN = "http://lab.test"
SCRIPTS = {"tour": TOUR / "tour.js", "window": SECOND_WINDOW / "window.js", "screen": FULL_SCREEN / "screen.js"}
BODY = """<!doctype html><title>A page</title>
<style>:root { --lab-background: #fff } body { margin: 0; height: 3000px } #one, #two { position: absolute } </style>
<style>%s</style><div class="stApp"><div id="here"></div>
<div id="one" style="left: 40px; top: 80px; width: 300px; height: 60px">one</div>
<div id="two" style="left: 0; top: 1500px; width: 90%%; height: 200px">two</div>
<div id="host"></div><button id="own">A button of the page</button></div>
<script>document.querySelector("#host").attachShadow({mode: "open"}).innerHTML = "<p class='inner'>within</p>"</script>"""
STOPS = [
    {"title": "First", "text": "About one.", "targets": ["#gone", "#one"]},
    {"title": "Second", "text": "About two.", "targets": ["#two"]},
    {"title": "Third", "text": "About what lies deeper.", "targets": ["#host >>> .inner"]},
    {"title": "Fourth", "text": "About nothing that is here.", "targets": ["#gone"]},
]


@pytest.fixture
def open_script(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A page with a component's script mounted, in one browser profile for the test."""
    context: BrowserContext = browser.new_context(viewport={"width": 1000, "height": 700})

    def answer(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        if name.endswith(".js"):
            body = SCRIPTS[name.removesuffix(".js")].read_text(encoding="utf-8")
            route.fulfill(body=body, content_type="text/javascript")
        else:
            css = (TOUR / "tour.css").read_text(encoding="utf-8")
            route.fulfill(body=BODY % css, content_type="text/html")

    context.route(f"{ORIGIN}/**", answer)

    def open_one(script: str | None, data: dict[str, Any], *, width: int = 1000) -> Page:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 700})
        page.goto(f"{ORIGIN}/page")
        if script is not None:
            mount(page, script, data)
        return page

    yield open_one
    context.close()


def mount(page: Page, script: str, data: dict[str, Any]) -> None:
    page.evaluate(
        f"""async () => {{
          const {{ default: mount }} = await import("/{script}.js");
          globalThis.said = [];
          globalThis.unmount = mount({{
            parentElement: document.querySelector("#here"),
            data: {json.dumps(data)},
            setStateValue: (name, value) => globalThis.said.push(value),
          }});
        }}"""
    )


COVERED = """(selector) => {
  const [card, other] = [".lab-tour", selector].map((one) => document.querySelector(one).getBoundingClientRect());
  return Math.min(card.right, other.right) > Math.max(card.left, other.left)
    && Math.min(card.bottom, other.bottom) > Math.max(card.top, other.top);
}"""
MEASURES = (
    "[document.documentElement.scrollHeight, document.querySelector('#one').getBoundingClientRect().top, scrollY]"
)


@pytest.mark.parametrize("width", [1000, 390])
def test_the_tour_covers_nothing_moves_nothing_and_is_walked_by_keyboard(
    open_script: Callable[..., Page], width: int
) -> None:
    page = open_script(None, {}, width=width)
    before = page.evaluate(MEASURES)
    mount(page, "tour", {"stops": STOPS})
    card = page.get_by_role("dialog", name="Tour of this page")
    expect(card.get_by_role("heading", name="First")).to_be_visible()
    assert page.evaluate(MEASURES) == before
    assert not page.evaluate(COVERED, "#one")
    expect(card.get_by_role("button", name="Next")).to_be_focused()
    page.keyboard.press("Enter")
    expect(card.get_by_role("heading", name="Second")).to_be_visible()
    assert not page.evaluate(COVERED, "#two")
    assert page.evaluate("document.querySelector('#two').getBoundingClientRect().bottom <= innerHeight")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(card.get_by_text("4 of 4")).to_be_visible()
    expect(card.get_by_role("button", name="Skip the tour")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(card).to_have_count(0)


def test_a_tour_that_was_left_never_comes_again_and_one_that_was_interrupted_goes_on(
    open_script: Callable[..., Page],
) -> None:
    page = open_script("tour", {"stops": STOPS})
    page.get_by_role("button", name="Next").click()
    page.reload()
    mount(page, "tour", {"stops": STOPS})
    expect(page.get_by_role("heading", name="Second")).to_be_visible()
    mount(page, "tour", {"stops": STOPS})  # the page was drawn again
    expect(page.get_by_role("dialog")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.reload()
    mount(page, "tour", {"stops": STOPS})
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_second_window_follows_the_first(open_script: Callable[..., Page]) -> None:
    first = open_script("window", {"label": "Speaker notes", "parameter": "notes", "place": "decoding 1"})
    second = open_script("window", {"label": None})
    second.wait_for_function("said.at(-1) === 'decoding 1'")
    mount(first, "window", {"label": "Speaker notes", "parameter": "notes", "place": "decoding 2"})
    second.wait_for_function("said.at(-1) === 'decoding 2'")
    with first.expect_popup() as opened:
        first.get_by_role("button", name="Speaker notes").click()
    assert opened.value.url == f"{ORIGIN}/page?notes=yes"


def test_a_chart_fills_the_screen_and_comes_back(open_script: Callable[..., Page]) -> None:
    page = open_script("screen", {"container": "reveal-chart", "key": "f"})
    page.evaluate(
        """() => { document.querySelector(".stApp").insertAdjacentHTML("beforeend",
          '<div class="st-key-reveal-chart"><div class="stPlotlyChart" style="height: 200px">chart</div></div>') }"""
    )
    style = "document.querySelector('.stPlotlyChart').style.transform"
    page.keyboard.press("f")
    page.wait_for_function(f"{style}.includes('scale')")
    box = page.locator(".stPlotlyChart").bounding_box()
    assert box is not None
    assert box["width"] == pytest.approx(1000, abs=2) or box["height"] == pytest.approx(700, abs=2)
    page.keyboard.press("f")
    page.wait_for_function(f"{style} === ''")
