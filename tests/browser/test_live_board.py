"""The live board alone in a browser, its socket played by the test: resuming, gaps, refusals, theme, cleaning up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, WebSocketRoute, expect

from app.components.live_board import script, styles
from app.theme import palettes
from app.words.board import board_words
from app.words.plain import milliseconds
from store.live_run import TOKEN_COLUMNS, encode_frame
from store.metrics import STALL_MS
from store.queries import DEVICE_COLUMNS, ITERATION_COLUMNS

pytestmark = pytest.mark.browser
COLUMNS = {"iteration": tuple(ITERATION_COLUMNS), "token": TOKEN_COLUMNS, "device": tuple(DEVICE_COLUMNS)}
PLANTED = "<b id='planted'>bold</b>"


def frame(table: str, first: int, rows: list[dict[str, float]]) -> bytes:
    names = COLUMNS[table]
    return encode_frame(table, first, names, np.array([[row.get(name, np.nan) for name in names] for row in rows]))


def iterations(first: int, count: int) -> bytes:
    rows = [
        {
            "t": 0.05 * (n + 1),
            "duration_ms": 50,
            "forward_ms": 45,
            "decode_tokens": 4,
            "running": 4,
            "waiting": 0,
            "iteration": n,
        }
        for n in range(first, first + count)
    ]
    return frame("iteration", first, rows)


def tokens(first: int, gaps: list[float]) -> bytes:
    rows = [{"t": 0.05 * (first + n), "itl_ms": gap, "request": n % 4} for n, gap in enumerate(gaps)]
    return frame("token", first, rows)


@dataclass
class PlayedSocket:
    """The lab's end of the socket: what the board said, and the way to answer."""

    greetings: list[dict[str, Any]] = field(default_factory=list)
    paces: list[int] = field(default_factory=list)
    routes: list[WebSocketRoute] = field(default_factory=list)

    def connect(self, route: WebSocketRoute) -> None:
        self.routes.append(route)
        route.on_message(lambda text: self.greet(route, text))

    def greet(self, route: WebSocketRoute, text: str | bytes) -> None:
        said = json.loads(text)
        if "token" not in said:
            self.paces.append(said["every_ms"])
            return
        self.greetings.append(said)
        route.send(json.dumps({"type": "hello", "run": "r1"}))

    def send(self, message: bytes | dict[str, Any]) -> None:
        self.routes[-1].send(message if isinstance(message, bytes) else json.dumps(message))


@dataclass
class OpenBoard:
    page: Page
    socket: PlayedSocket

    def attribute(self, name: str) -> str | None:
        return self.page.locator(".board").get_attribute(f"data-{name}")

    def wait_for_greetings(self, count: int) -> None:
        for _ in range(200):
            if len(self.socket.greetings) >= count:
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"{len(self.socket.greetings)} connections, {count} wanted")


def page_text(data: dict[str, Any], background: str) -> str:
    payload = json.dumps(data).replace("</", "<\\/")
    return (
        f"<!doctype html><style>:root {{ --st-background-color: {background}; --st-font: sans-serif; }}{styles()}</style>"
        f"<div id=host></div><script type=module>{script()};const host = document.getElementById('host'), data = {payload};"
        "window.turns = []; const setTriggerValue = (name, value) => window.turns.push([name, value]);"
        "window.mounted = mount({ parentElement: host, data, setTriggerValue });"
        "window.remount = (change) => mount({ parentElement: host, data: { ...data, ...change }, setTriggerValue });</script>"
    )


@pytest.fixture
def open_board(browser: Browser) -> Any:
    contexts = []

    def open_one(
        *, background: str = "#ffffff", motion: Literal["reduce", "no-preference"] = "no-preference", **extra: Any
    ) -> OpenBoard:
        data = {
            "run": "r1",
            "state": "queued",
            "token": "t",
            "path": "/live",
            "palettes": palettes(),
            "words": board_words(),
            "stall_ms": STALL_MS,
            "expected_tokens": 100,
            "ghost": None,
        } | extra
        context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion=motion)
        contexts.append(context)
        page = context.new_page()
        socket = PlayedSocket()
        page.route_web_socket("**/live", socket.connect)
        page.route(
            "http://board.test/",
            lambda route: route.fulfill(content_type="text/html; charset=utf-8", body=page_text(data, background)),
        )
        page.goto("http://board.test/")
        board = OpenBoard(page, socket)
        board.wait_for_greetings(1)
        return board

    yield open_one
    for context in contexts:
        context.close()


OpenOne = Callable[..., OpenBoard]


def test_it_introduces_itself_with_token_and_run(open_board: OpenOne) -> None:
    board = open_board()
    assert board.socket.greetings[0]["token"] == "t"
    assert board.socket.greetings[0]["run"] == "r1"
    assert board.socket.greetings[0]["since"]["iteration"] == 0


def test_after_a_break_it_asks_for_what_comes_next_and_says_so_meanwhile(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send({"type": "status", "state": "running", "progress": {}})
    board.socket.send(iterations(0, 30))
    expect(board.page.locator(".chip")).to_have_text("Live")
    board.socket.routes[-1].close()
    expect(board.page.locator(".chip")).to_have_text("Reconnecting")
    expect(board.page.locator(".notice")).to_contain_text("Nothing is lost")
    board.wait_for_greetings(2)
    assert board.socket.greetings[1]["since"]["iteration"] == 30
    board.socket.send(iterations(25, 10))  # an overlap is trimmed
    expect(board.page.locator(".chip")).to_have_text("Live")
    expect(board.page.locator(".notice")).to_be_hidden()
    described(board, "35 iterations")


def test_a_reader_who_asked_for_less_motion_is_sent_and_shown_less(open_board: OpenOne) -> None:
    board = open_board(motion="reduce")
    board.socket.send(iterations(0, 10))
    described(board, "10 iterations")
    asked = [board.socket.greetings[0]["every_ms"], *board.socket.paces]
    assert asked[-1] >= 500


def test_the_page_is_told_once_of_another_state(open_board: OpenOne) -> None:
    board = open_board()
    for state in ("queued", "running", "running", "finished"):
        board.socket.send({"type": "status", "state": state, "progress": {}})
    expect(board.page.locator(".chip")).to_have_text("Finished")
    assert board.page.evaluate("window.turns") == [["turned", "running"], ["turned", "finished"]]


def test_a_room_hears_what_is_shown_and_has_it_shown_to_others(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send(iterations(0, 100))
    described(board, "100 iterations")
    board.page.evaluate(
        "() => { window.said = []; document.addEventListener('servescope-view-said', (one) => said.push(one.detail)); }"
    )
    board.page.get_by_role("button", name="Follow the run, showing its last 30 s").click()
    assert board.page.evaluate("said.at(-1)") == {"name": "live", "view": [30]}
    board.page.get_by_role("button", name="Show a shorter time").click()
    low, high = board.page.evaluate("said.at(-1).view")
    assert low < high
    board.page.get_by_role("button", name="Hold the charts still").click()
    assert board.page.evaluate("said.at(-1).view") == [low, high, pytest.approx(5.0)]
    ask = (
        "(view) => document.dispatchEvent(new CustomEvent('servescope-view-asked', { detail: { name: 'live', view } }))"
    )
    for view, shows, ends in (([1, 2], "zoomed", ("1.000", "2.000")), ([1, 2, 1.5], "paused", ("1.000", "2.000"))):
        board.page.evaluate(ask, view)
        assert (board.attribute("view"), board.attribute("from"), board.attribute("to")) == (shows, *ends)
    board.page.evaluate(ask, [0])
    assert board.attribute("view") == "following"


def test_what_watching_costs_is_said_while_the_run_goes_on(open_board: OpenOne) -> None:
    board = open_board()
    told = board.page.get_by_text(re.compile(r"drawn every .* of a core"))
    board.socket.send({"type": "status", "state": "running", "progress": {}})
    board.socket.send(iterations(0, 10))
    described(board, "10 iterations")
    board.socket.send({"type": "figures", "watching_percent": 2.0, "running": 1, "waiting": 0})
    expect(told).to_be_visible()
    board.socket.send({"type": "status", "state": "finished", "progress": {}})
    expect(told).to_be_hidden()


def test_rows_that_never_came_are_counted_in_words(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send(iterations(0, 10))
    board.socket.send(iterations(17, 10))
    expect(board.page.locator(".notice")).to_contain_text("7 rows were dropped")


def test_a_long_run_that_begins_thinned_is_no_loss(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send(iterations(5000, 10))
    described(board, "5010 iterations")
    expect(board.page.locator(".notice")).to_be_hidden()


def test_a_long_run_is_thinned_without_losing_its_longest_iteration(open_board: OpenOne) -> None:
    board = open_board()
    names = COLUMNS["iteration"]
    for first in range(0, 120_000, 20_000):
        rows = np.full((20_000, len(names)), 1.0)
        rows[:, names.index("t")] = np.arange(first, first + 20_000) / 1000
        if first == 0:
            rows[7, names.index("duration_ms")] = 900
        board.socket.send(encode_frame("iteration", first, names, rows))
    described(board, "120000 iterations, last 1 ms, longest in view 900 ms")


def test_hovering_an_iteration_tells_its_values_and_moves_the_cursor_of_every_chart(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send(iterations(0, 60))
    board.socket.send(tokens(0, [50.0] * 60))
    described(board, "60 iterations")
    box = board.page.locator(".u-over").first.bounding_box()
    assert box is not None
    board.page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 50)
    board.page.mouse.move(box["x"] + box["width"] * 0.21, box["y"] + 60)
    tip = board.page.locator(".tip").first
    expect(tip).to_contain_text("decode only, 50 ms")
    expect(tip).to_contain_text("forward 45 ms")
    cursors = board.page.locator(".u-cursor-x").evaluate_all("nodes => nodes.map((node) => node.style.transform)")
    assert len(cursors) == 7
    assert all("translate(0px" not in place for place in cursors)
    board.page.mouse.move(5, 5)
    expect(tip).to_be_hidden()


def pool_rows(first: int, count: int, thrown: dict[int, int]) -> bytes:
    rows = [
        {
            "t": 0.05 * (n + 1),
            "duration_ms": 50,
            "iteration": n,
            "blocks_used": 60,
            "blocks_cached": 0,
            "blocks_total": 64,
            "preempted": thrown.get(n, 0),
        }
        for n in range(first, first + count)
    ]
    return frame("iteration", first, rows)


@pytest.mark.parametrize("background", ["#ffffff", "#0E1419"], ids=["light", "dark"])
def test_preemptions_are_marked_in_the_pool_and_told_at_the_pointer(open_board: OpenOne, background: str) -> None:
    board = open_board(background=background)
    board.page.set_viewport_size({"width": 1200, "height": 2400})
    board.socket.send(pool_rows(0, 50, {}))
    card = board.page.locator(".card", has_text="KV pool")
    described(board, "50 iterations")
    entry = card.locator(".legend-item", has_text="preemption")
    expect(entry).to_be_hidden()
    plain_pixels = red_pixels(board, card)
    board.socket.send(pool_rows(50, 50, {59: 2, 79: 1}))
    described(board, "100 iterations")
    expect(entry).to_contain_text("3 so far")
    expect(card.locator(".plot")).to_have_attribute("aria-label", re.compile("3 preemptions so far"))
    assert plain_pixels == 0
    assert red_pixels(board, card) > 20
    over = card.locator(".u-over")
    box = over.bounding_box()
    assert box is not None
    first, last = (float(board.attribute(name) or 0) for name in ("from", "to"))
    at = box["x"] + box["width"] * (3.0 - first) / (last - first)
    board.page.mouse.move(at - 3, box["y"] + 30)
    board.page.mouse.move(at, box["y"] + 40)
    tip = card.locator(".tip")
    expect(tip).to_contain_text("2 requests preempted at 3")
    expect(tip).to_contain_text("iteration 59")
    board.page.mouse.move(box["x"] + box["width"] * (1.0 - first) / (last - first), box["y"] + 40)
    expect(tip).to_be_hidden()


def red_pixels(board: OpenBoard, card: Locator) -> int:
    """Pixels of a chart's canvas in the colour of a stall."""
    theme = board.attribute("theme") or "light"
    return int(
        card.locator("canvas").evaluate(
            """(canvas, wanted) => {
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              let found = 0;
              for (let i = 0; i < data.length; i += 4) if (wanted.every((part, k) => Math.abs(data[i + k] - part) < 12)) found += 1;
              return found;
            }""",
            list(bytes.fromhex(palettes()[theme]["stall"][1:])),
        )
    )


def test_preemptions_of_a_long_run_are_all_counted(open_board: OpenOne) -> None:
    board = open_board()
    board.page.set_viewport_size({"width": 1200, "height": 2400})
    names = COLUMNS["iteration"]
    for first in range(0, 120_000, 20_000):
        rows = np.full((20_000, len(names)), 1.0)
        rows[:, names.index("t")] = np.arange(first, first + 20_000) / 1000
        rows[:, names.index("preempted")] = np.arange(20_000) % 1000 == 0
        board.socket.send(encode_frame("iteration", first, names, rows))
    described(board, "120000 iterations")
    expect(
        board.page.locator(".card", has_text="KV pool").locator(".legend-item", has_text="preemption")
    ).to_contain_text("120 so far")


def test_a_refusal_is_told_and_not_repeated(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send({"type": "error", "kind": "bad-token", "message": "The token is not this lab's."})
    board.socket.routes[-1].close(code=4403, reason="bad-token")
    expect(board.page.locator(".notice")).to_contain_text("The token is not this lab's.")
    expect(board.page.locator(".chip")).to_have_text("Not connected")
    board.page.wait_for_timeout(1500)
    assert len(board.socket.greetings) == 1


def tile_of(board: OpenBoard, label: str) -> Locator:
    """The tile of this label; help texts, which are there too, may hold the same word."""
    return board.page.locator(".tile", has=board.page.locator(".tile-label").get_by_text(label, exact=True))


def figures(**changes: Any) -> dict[str, Any]:
    """A whole ``figures`` message."""
    times = {"count": 12, "p50": 20.0, "p99": 300.0, "max": 500.0, "recent": {"p50": 20.0, "p99": 300.0}}
    return {
        **{
            "type": "figures",
            "t": 3.0,
            "final": False,
            "tokens_per_s": 80.0,
            "itl_ms": times,
            "ttft_ms": times,
            "stalls": 2,
            "too_few": {"itl_ms": [], "ttft_ms": ["p90", "p95", "p99"]},
        },
        **{"running": 4, "waiting": 1, "kv_used_share": 0.25, "capacity": None, "device": {}, "limit": None},
    } | changes


def test_stalls_and_median_are_the_labs_figures(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send(tokens(0, [20.0] * 60 + [90.0, 300.0, 500.0]))
    board.socket.send(figures())
    legend = board.page.locator(".card", has_text="ITL of every token").locator(".legend")
    expect(legend).to_contain_text("median 20 ms")
    expect(legend).to_contain_text("2 stalls, longest gap 500 ms")


def test_durations_and_rates_read_as_on_a_finished_runs_page(open_board: OpenOne) -> None:
    board = open_board()
    tile = tile_of(board, "TTFT").locator(".tile-value")
    for value in (0.0, 0.0123, 0.9997, 5.126, 28.64, 286.4, 999.7, 1234.0, 12_340.0, 123_456.0, 1_234_567.0):
        times = {"count": 1000, "p50": value, "p99": value, "max": value, "recent": {"p50": value, "p99": value}}
        board.socket.send(figures(ttft_ms=times, tokens_per_s=value, final=True, requests={"total": 1, "finished": 1}))
        expect(tile).to_have_text(milliseconds(value))
        expect(tile_of(board, "Throughput").locator(".tile-value")).to_have_text(f"{value:,.1f}")


HIDE = """hidden => {
  Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_page_that_was_hidden_shows_the_newest_when_it_comes_back(open_board: OpenOne) -> None:
    board = open_board()
    tile = tile_of(board, "Throughput")
    board.socket.send(figures(tokens_per_s=1.0))
    expect(tile.locator(".tile-value")).to_have_text("1.0")
    board.page.evaluate(HIDE, True)
    for value in range(2, 303):
        board.socket.send(figures(tokens_per_s=float(value)))
    board.socket.send({"type": "error", "kind": "marker", "message": "the last of them"})
    expect(board.page.locator(".notice")).to_contain_text("the last of them")
    expect(tile.locator(".tile-value")).to_have_text("1.0")
    board.page.evaluate(HIDE, False)
    expect(tile.locator(".tile-value")).to_have_text("302.0")


def test_a_p99_of_few_samples_says_of_how_few(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send(figures())
    expect(tile_of(board, "TTFT").locator(".tile-minor")).to_have_text("p99 300 ms of 12")
    expect(tile_of(board, "ITL").locator(".tile-minor")).to_have_text("p99 300 ms")


def test_after_the_end_nothing_is_said_to_be_now(open_board: OpenOne) -> None:
    board = open_board()
    limit = {"kind": "compute", "sentence": "Compute.", "figures": {}}
    board.socket.send(figures(limit=limit))
    expect(board.page.locator(".limit-title")).to_have_text("What limits the engine now")
    expect(tile_of(board, "Running")).to_contain_text("1 waiting")
    counts = {"total": 26, "finished": 24, "failed": 0, "cancelled": 2}
    board.socket.send(
        {
            "type": "status",
            "state": "cancelled",
            "progress": {"requests_total": 26, "requests_done": 26},
            "summary": {"requests": counts},
        }
    )
    board.socket.send(figures(final=True, limit=limit, requests=counts, running=0, waiting=0))
    expect(board.page.locator(".limit-title")).to_have_text("What limited the engine, over the run")
    expect(tile_of(board, "Finished")).to_contain_text("24of 26 requests")
    expect(tile_of(board, "Peak KV usage")).to_contain_text("25 %")
    expect(board.page.locator(".progress-text")).to_contain_text("24 of 26 requests")
    assert tile_of(board, "Running").count() == 0
    assert "now" not in board.page.locator(".board").inner_text().split()


def test_an_earlier_run_lies_behind_and_is_named_as_text(open_board: OpenOne) -> None:
    ghost = {"name": PLANTED, "stalls": 1, "longest_ms": 900, "t": [0.1, 0.2, 0.3], "itl_ms": [20, 900, 20]}
    board = open_board(ghost=ghost)
    board.socket.send(tokens(0, [20.0] * 60))
    legend = board.page.locator(".card", has_text="ITL of every token").locator(".legend")
    expect(legend).to_contain_text(f"before: {PLANTED}")
    expect(legend).to_contain_text("1 stall, longest gap 900 ms")
    assert board.page.locator("#planted").count() == 0


def test_texts_of_the_engine_stay_texts(open_board: OpenOne) -> None:
    board = open_board()
    limit = {"kind": "compute", "sentence": PLANTED, "figures": {PLANTED: 1.0}}
    board.socket.send(
        {
            "type": "figures",
            "tokens_per_s": 12.5,
            "ttft_ms": {},
            "itl_ms": {},
            "device": {},
            "trend": {},
            "limit": limit,
        }
    )
    board.socket.send({"type": "status", "state": "loading", "progress": {"phase": PLANTED, "phase_share": 0.4}})
    expect(board.page.locator(".limit-sentence")).to_have_text(PLANTED)
    expect(board.page.locator(".progress-text")).to_have_text(PLANTED)
    board.page.get_by_role("button", name="Why?").click()
    expect(board.page.locator(".limit-figures dt")).to_have_text(PLANTED)
    assert board.page.locator("#planted").count() == 0


def test_figures_that_are_not_known_are_dashes(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send(
        {"type": "figures", "tokens_per_s": None, "ttft_ms": {"p50": None}, "itl_ms": {}, "device": {}, "trend": {}}
    )
    for tile in board.page.locator(".tile-value").all():
        expect(tile).to_have_text("–")


@pytest.mark.parametrize(("background", "theme"), [("#ffffff", "light"), ("#0E1419", "dark")])
def test_it_takes_the_theme_of_the_page(open_board: OpenOne, background: str, theme: str) -> None:
    board = open_board(background=background)
    assert board.attribute("theme") == theme


def test_another_run_starts_over(open_board: OpenOne) -> None:
    board = open_board()
    board.socket.send(iterations(0, 30))
    described(board, "30 iterations")
    board.page.evaluate("() => window.remount({ run: 'r2' })")
    board.wait_for_greetings(2)
    assert board.socket.greetings[1]["run"] == "r2"
    assert board.socket.greetings[1]["since"]["iteration"] == 0


def test_leaving_the_page_closes_the_socket_and_removes_the_board(open_board: OpenOne) -> None:
    board = open_board()
    closed: list[int | None] = []
    board.socket.routes[-1].on_close(lambda code, reason: closed.append(code))
    board.page.evaluate("() => window.mounted()")
    expect(board.page.locator(".board")).to_have_count(0)
    board.page.wait_for_timeout(1000)
    assert len(closed) == 1
    assert len(board.socket.greetings) == 1


def described(board: OpenBoard, words: str) -> None:
    """Wait until the timeline's text alternative says the words."""
    plot = board.page.locator(".card", has_text="Iterations").locator(".plot").first
    for _ in range(200):
        if words in (plot.get_attribute("aria-label") or ""):
            return
        board.page.wait_for_timeout(50)
    pytest.fail(f"{words!r} not in {plot.get_attribute('aria-label')!r}")
