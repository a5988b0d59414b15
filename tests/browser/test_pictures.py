"""The pictures of recorded runs alone in a browser, with made-up rows: what they say, what opens, and that large ones are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest
from playwright.sync_api import Browser, Page, expect

from app.components.pictures import FOLDER, script
from app.theme import DARK, LIGHT
from tests.browser.conftest import AUDIT

pytestmark = pytest.mark.browser
OpenPicture = Callable[..., Page]
PLANTED = "<b id='planted'>bold</b>"
TABLE = """
const table = (columns) => {
  const names = Object.keys(columns);
  const length = names.length ? columns[names[0]].length : 0;
  return { numRows: length, schema: { fields: names.map((name) => ({ name })) },
           getChild: (name) => ({ toArray: () => columns[name], get: (row) => columns[name][row] }) };
};
const range = (count, by = 1, from = 0) => Float64Array.from({ length: count }, (_, i) => from + i * by);
"""
"""As much of an Arrow table as the pictures ask for."""


@pytest.fixture
def open_picture(browser: Browser) -> Iterator[OpenPicture]:
    contexts = []
    complaints: list[str] = []

    def open_one(files: tuple[str, ...], data: str, *, dark: bool = False, width: int = 1100) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        palette = DARK if dark else LIGHT
        code = script(*files).replace("export default", "const mount =")
        styles = (FOLDER / "pictures.css").read_text(encoding="utf-8")
        page.set_content(
            f"<!doctype html><html lang=en><title>Pictures</title><style>body {{ background: {palette.background} }} {styles}</style>"
            f"<main id=host></main><script type=module>{code}\n{TABLE}\n"
            f"const data = {{ palette: {json.dumps(asdict(palette))}, ...({data}) }};\n"
            "window.told = [];\nObject.assign(window, { lead, pictures });\n"
            "window.picture = () => pictures.get(document.getElementById('host')).picture;\n"
            "window.draw = (change) => mount({ parentElement: document.getElementById('host'), data: { ...data, ...change },"
            " setTriggerValue: (...what) => window.told.push(what) }); draw();"
            "</script>"
        )
        page.wait_for_function("document.querySelector('canvas')?.width > 0")
        page.wait_for_timeout(100)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


def steps_data(count: int = 30) -> str:
    """Iterations of 10 ms, two requests in each; the second one's prompt comes in iteration 10."""
    return f"""{{
      run: "r", iteration: 3, first: 0, last: 99, longest: 12, recording: "full", recorded: true,
      peaks: {{ flops_per_s: 1e12, bytes_per_s: 1e11 }},
      steps: table({{
        iteration: range({count}), start_ns: range({count}, 1e7), end_ns: range({count}, 1e7, 1e7 - 1e5),
        ...Object.fromEntries(["schedule", "draft", "prepare", "sample", "finish"].map((n) => [n + "_ns", range({count}, 0, 1e6)])),
        forward_ns: range({count}, 0, 5e6), flops: range({count}, 1e6, 1e9), bytes: range({count}, 0, 1e8),
        prefill_tokens: range({count}).map((i) => (i === 10 ? 64 : 0)), decode_tokens: range({count}, 0, 1),
      }}),
      slices: table({{
        iteration: range(2 * {count}).map((i) => i >> 1), request: range(2 * {count}).map((i) => i % 2),
        kind: range(2 * {count}).map((i) => (i === 21 ? 0 : i % 2 ? 2 : 1)), tokens: range(2 * {count}).map((i) => (i === 21 ? 64 : i % 2 ? 4 : 1)),
        context_len: range(2 * {count}, 3, 20), drafted: range(2 * {count}).map((i) => (i % 2 && i !== 21 ? 3 : 0)),
        accepted: range(2 * {count}).map((i) => (i % 2 && i !== 21 ? 1 : 0)), emitted: range(2 * {count}, 0, 1),
        itl_ms: range(2 * {count}, 0, 10), cached: range(2 * {count}, 0, 16),
      }}),
      sentences: [...range({count})].map((i) => `Iteration ${{i}} took 10.0 ms.`),
      decisions: {{ 10: ["Request 1 was let in, because there was room (9 blocks needed, 40 blocks to be had)."] }},
      touched: {{ 10: "4 taken." }}, names: {{ 0: ["r0", "chat"], 1: [{json.dumps(PLANTED)}, ""] }},
      columns: [["flops", "FLOP", "Arithmetic.", "modelled"], ["decode_tokens", "tokens", "Decodes.", "measured"]],
    }}"""


@pytest.mark.parametrize("dark", [False, True])
def test_an_iteration_is_walked_through_with_the_keyboard(open_picture: OpenPicture, dark: bool) -> None:
    page = open_picture(("iteration_times.js", "iteration.js"), steps_data(), dark=dark)
    picture = page.locator(".picture")
    expect(picture).to_contain_text("Iteration 3 took 10.0 ms.")
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press("ArrowRight")
    expect(picture).to_contain_text("Iteration 4 took")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(picture).to_contain_text("Iteration 2 took")
    page.get_by_label("Iteration", exact=True).fill("10")
    page.keyboard.press("Enter")
    expect(picture).to_contain_text("9 blocks needed, 40 blocks to be had")
    expect(picture).to_contain_text("4 taken.")
    page.get_by_text("The batch as a table").click()
    expect(picture.get_by_role("row")).to_have_count(3)
    expect(picture.get_by_role("cell", name=PLANTED)).to_be_visible()
    assert page.locator("#planted").count() == 0
    page.get_by_role("button", name="The longest").click()
    expect(picture).to_contain_text("Iteration 12 took")
    expect(picture).to_contain_text("Nothing out of the ordinary")
    assert page.evaluate(AUDIT) == []


def test_a_picture_that_the_page_draws_again_stays_where_it_is(open_picture: OpenPicture) -> None:
    page = open_picture(("iteration_times.js", "iteration.js"), steps_data())
    picture = page.locator(".picture")
    page.get_by_role("button", name="Next").click()
    expect(picture).to_contain_text("Iteration 4 took")
    page.evaluate("void draw()")
    expect(picture).to_contain_text("Iteration 4 took")
    page.evaluate("void draw({ iteration: 7 })")
    expect(picture).to_contain_text("Iteration 7 took")


def test_an_iteration_beyond_those_loaded_is_asked_for(open_picture: OpenPicture) -> None:
    page = open_picture(("iteration_times.js", "iteration.js"), steps_data())
    page.get_by_label("Iteration", exact=True).fill("29")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Next").click()
    assert page.evaluate("window.told") == [["asked", {"iteration": "30"}]]
    page.get_by_label("Iteration", exact=True).fill("5000")
    page.keyboard.press("Enter")
    assert page.evaluate("window.told")[-1] == ["asked", {"iteration": "99"}]


def test_playing_goes_on_to_the_end_of_what_is_loaded(open_picture: OpenPicture) -> None:
    page = open_picture(("iteration_times.js", "iteration.js"), steps_data())
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("window.told.length")
    assert page.evaluate("window.told[0]") == ["asked", {"iteration": "30"}]


def test_a_click_on_a_bar_opens_its_request(open_picture: OpenPicture) -> None:
    page = open_picture(("iteration_times.js", "iteration.js"), steps_data())
    page.locator(".scrolls canvas").click(position={"x": 200, "y": 27})
    opened = {"opens": "request", "number": 1, "selected": {"iteration": "3"}}
    assert page.evaluate("window.told") == [["opened", opened]]
    page.locator(".scrolls canvas").hover(position={"x": 200, "y": 9})
    expect(page.locator(".tip")).to_contain_text("Request 0 (r0)")
    expect(page.locator(".tip")).to_contain_text("16 of them from the prefix cache")


BLOCKS = 100_000
POOL = f"""{{
  run: "r", follows: false, iteration: 0, first: 0, last: 199, from: 0, until: 199, blocks: {BLOCKS}, block_size: 16,
  start: table({{}}), holders: table({{}}),
  events: table({{
    iteration: range(200000).map((i) => i / 1000 | 0), block: range(200000).map((i) => i % {BLOCKS}),
    event: range(200000).map((i) => (i < {BLOCKS} ? 0 : i % 2 ? 1 : 4)), request: range(200000).map((i) => (i < {BLOCKS} ? i / 50 | 0 : i % 2 ? 7777 : i % {BLOCKS} / 50 | 0)),
    position: range(200000).map((i) => i % 50), ref_count: range(200000).map((i) => (i < {BLOCKS} ? 1 : i % 2 ? 2 : 0)),
    findable: range(200000).map((i) => (i < {BLOCKS} ? 0 : i % 4 === 0 ? 1 : 0)),
  }}),
  steps: table({{ iteration: range(200), start_ns: range(200, 1e7), end_ns: range(200, 1e7, 1e7) }}),
  names: {{ 7777: {json.dumps(PLANTED)} }}, texts: {{ 7777: {{ 1: {json.dumps(PLANTED)} }} }},
}}"""
"""A pool that is filled in a hundred iterations; in the next hundred every second block is shared and the others are given back."""


def test_a_map_of_a_hundred_thousand_blocks_says_what_the_events_say(open_picture: OpenPicture) -> None:
    page = open_picture(("replay.js", "pool.js"), POOL)
    picture = page.locator(".picture")
    expect(picture).to_contain_text(
        "After iteration 0, of 100,000 blocks: 1,000 used by one request, 0 shared, 0 cached, 99,000 free"
    )
    slider = page.get_by_label("Iteration, within those loaded")
    for iteration, words in (
        (99, "100,000 used by one request, 0 shared, 0 cached, 0 free"),
        (199, "0 used by one request, 50,000 shared, 25,000 cached, 25,000 free"),
        (49, "50,000 used by one request, 0 shared, 0 cached, 50,000 free"),
    ):
        slider.fill(str(iteration))
        expect(picture).to_contain_text(f"After iteration {iteration}, of 100,000 blocks: {words}")
    for mode in ("State", "Sharing", "Codec", "Age", "Owner"):
        page.get_by_role("button", name=mode, exact=True).click()
        expect(page.get_by_role("button", name=mode, exact=True)).to_have_attribute("aria-pressed", "true")
    slider.fill("199")
    page.locator("canvas").hover(position={"x": 3, "y": 1})
    expect(page.locator(".tip")).to_contain_text(f"request 7777 ({PLANTED}): tokens 16 to 31")
    expect(page.locator(".tip")).to_contain_text(f"“{PLANTED}”")
    page.locator("canvas").click(position={"x": 3, "y": 1})
    expect(picture.locator("p[aria-live]")).to_contain_text("Block 1: shared; request 0: tokens 16 to 31; request 7777")
    page.locator("canvas").click(position={"x": 3, "y": 1})
    expect(picture.locator("p[aria-live]")).to_have_text("")
    assert page.locator("#planted").count() == 0
    assert page.evaluate(AUDIT) == []


def test_a_map_that_comes_late_shows_the_iteration_that_its_reader_went_on_to(open_picture: OpenPicture) -> None:
    page = open_picture(("replay.js", "pool.js"), f"{{ ...{POOL}, follows: true }}")
    picture = page.locator(".picture")
    expect(picture).to_contain_text("After iteration 0,")
    page.evaluate("lead('r', 49)")
    expect(picture).to_contain_text("After iteration 49,")
    page.evaluate("() => { window.picture().destroy(); pictures.delete(document.getElementById('host')); }")
    page.evaluate("() => { lead('r', 99); lead('another run', 7); lead('r', 98); window.draw({}); }")
    expect(picture).to_contain_text("After iteration 98,")


REQUESTS = """{
  run: "r", objective: "strict",
  requests: table({
    request: range(10000), request_id: [...range(10000)].map((i) => "r" + i), group: [...range(10000)].map((i) => (i % 4 ? "chat" : "code")),
    arrival_ms: range(10000), scheduled_ms: range(10000, 1, 5), first_ms: range(10000, 1, 20), end_ms: range(10000, 1, 100),
    prompt_tokens: range(10000, 0, 64), cached_tokens: range(10000, 0, 16), output_tokens: range(10000, 0, 8),
    preemptions: range(10000).map((i) => (i % 100 ? 0 : 1)), missed: range(10000).map((i) => (i % 10 ? 0 : 1)),
    end_reason: [...range(10000)].map(() => "length"),
  }),
  preempted: table({ request: range(100, 100), since_ms: range(100, 100, 30), until_ms: range(100, 100, 50) }),
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_ten_thousand_requests_are_filtered_and_opened(open_picture: OpenPicture, dark: bool) -> None:
    page = open_picture(("requests.js",), REQUESTS, dark=dark)
    picture = page.locator(".picture")
    expect(picture).to_contain_text("10,000 of 10,000 requests, 1,000 missed the objective (strict)")
    page.get_by_label("SLO missed").check()
    expect(picture).to_contain_text("1,000 of 10,000 requests")
    page.get_by_label("preempted").check()
    expect(picture).to_contain_text("100 of 10,000 requests")
    page.get_by_label("Group", exact=True).select_option("code")
    expect(picture).to_have_attribute("data-shown", "100")
    page.get_by_role("button", name="Readable rows").click()
    page.locator("canvas").click(position={"x": 5, "y": 24})  # the second row
    assert page.evaluate("window.told") == [["opened", {"opens": "request", "number": 100, "selected": {}}]]
    page.locator("canvas").hover(position={"x": 5, "y": 40})
    expect(page.locator(".tip")).to_contain_text("Request 200 (r200), code")
    assert page.evaluate(AUDIT) == []


def test_requests_mark_the_iteration_that_is_played(open_picture: OpenPicture) -> None:
    page = open_picture(("requests.js",), f"{{ ...({REQUESTS}), follows: true }}")
    before = page.evaluate("document.querySelector('canvas').toDataURL()")
    page.evaluate("lead('r', 7, 100, 180)")
    page.wait_for_timeout(100)
    marked = page.evaluate("picture().data.iteration")
    assert marked == {"start_ms": 100, "end_ms": 180}
    assert page.evaluate("document.querySelector('canvas').toDataURL()") != before
    page.evaluate("lead('another run', 8, 200, 280)")
    assert page.evaluate("picture().data.iteration") == marked


TREE = """{
  run: "r", iteration: 0,
  spans: table({ first: range(3, 32), until: range(3, 32, 32), top: Float64Array.of(0, 0, 2), bottom: Float64Array.of(4, 2, 3),
                 blocks: Int32Array.of(2, 2, 2), requests: Int32Array.of(4, 2, 1), text: ["Once upon", "a time", "<b>x</b>"] }),
  events: table({ iteration: Int32Array.of(0, 0, 1, 1, 2, 3), span: Int32Array.of(0, 0, 1, 1, 1, 1),
                  before: Int32Array.of(0, 0, 0, 0, 1, 1), after: Int32Array.of(1, 1, 1, 1, 2, 3) }),
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_a_prefix_tree_follows_the_iteration_forth_and_back(open_picture: OpenPicture, dark: bool) -> None:
    page = open_picture(("tree.js",), TREE, dark=dark)
    picture = page.locator(".picture")
    for iteration, counts in ((0, "4,2,0,0"), (3, "2,2,1,1"), (1, "2,4,0,0"), (2, "2,3,1,0")):
        page.evaluate(f"lead('r', {iteration}, 0, 1)")
        expect(picture).to_have_attribute("data-counts", counts)
        expect(picture).to_contain_text(f"After iteration {iteration}: ")
    width = page.locator("canvas").bounding_box()
    assert width is not None
    page.locator("canvas").hover(position={"x": width["width"] / 2, "y": 20})
    expect(page.locator(".tip")).to_contain_text("Tokens 32 to 63")
    expect(page.locator(".tip")).to_contain_text("2 blocks: 1 in use, 1 cached")
    expect(page.locator(".tip")).to_contain_text("“a time”")
    assert page.evaluate(AUDIT) == []
