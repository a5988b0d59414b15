"""Parts of a page that are asked for in the moment in which something else ends or begins, in Streamlit's own runtime."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime import Runtime, RuntimeConfig
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequestType

from app.server import bursts
from app.server.serve import configure_streamlit
from tests.apart import apart
from tests.turned import WHEN

PATIENCE_S = 30.0


class Browser:
    """What a browser sends, and what it was sent."""

    def __init__(self, runtime: Runtime) -> None:
        self.got: list[ForwardMsg] = []
        self._runtime = runtime
        self._id = runtime.connect_session(client=self, user_info={})  # type: ignore[arg-type]
        session = runtime.get_app_session(self._id)
        assert session is not None
        self.session: Any = session
        self.loop = asyncio.get_running_loop()

    def write_forward_msg(self, message: ForwardMsg) -> None:
        self.got.append(message)

    def ask(self, part: str = "", page: str = "") -> None:
        asks = BackMsg()
        asks.rerun_script.fragment_id = part
        asks.rerun_script.page_script_hash = page
        self._runtime.handle_backmsg(self._id, asks)

    def texts(self) -> list[str]:
        return [
            m.delta.new_element.text.body
            for m in self.got
            if m.HasField("delta") and m.delta.new_element.HasField("text")
        ]

    def pages(self) -> list[str]:
        return [m.new_session.page_script_hash for m in self.got if m.HasField("new_session")]

    def part(self, text: str) -> str:
        """The id of the part that shows ``text``."""
        return next(m.delta.fragment_id for m in self.got if m.delta.new_element.text.body == text)

    def page(self, name: str) -> str:
        told = next(m.navigation for m in self.got if m.HasField("navigation"))
        return next(page.page_script_hash for page in told.app_pages if page.url_pathname == name)

    async def sees(self, asked: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not asked():
            assert time.monotonic() < end, f"the browser has {self.texts()} of pages {self.pages()}"
            await asyncio.sleep(0.01)

    def ended(self, times: int) -> bool:
        return sum(m.HasField("script_finished") for m in self.got) >= times

    def over(self) -> bool:
        """Whether the run of now has ended, in the page's thread."""
        return self.session._scriptrunner._requests._state is ScriptRequestType.STOP


@pytest.fixture
def in_a_browser() -> Any:
    configure_streamlit()
    WHEN.clear()

    def run(story: Callable[[Browser], Awaitable[None]]) -> None:
        async def told() -> None:
            before, Runtime._instance = Runtime._instance, None
            runtime = Runtime(
                RuntimeConfig(
                    script_path=str(Path(__file__).with_name("turned_pages.py")),
                    media_file_storage=MemoryMediaFileStorage("/media"),
                    uploaded_file_manager=MemoryUploadedFileManager("/upload"),
                )
            )
            try:
                await runtime.start()
                browser = Browser(runtime)
                browser.ask()
                await browser.sees(lambda: browser.ended(1) and browser.session._scriptrunner is None)
                await story(browser)
            finally:
                runtime.stop()
                await runtime.stopped
                Runtime._instance = before

        apart(lambda: asyncio.run(told()))

    yield run
    WHEN.clear()


def test_what_a_run_that_has_just_ended_drew_arrives_though_another_part_was_asked_for(in_a_browser: Any) -> None:
    async def story(browser: Browser) -> None:
        first, second, page = browser.part("first 0"), browser.part("second"), browser.page("")

        def then_ask() -> None:  # on the session's loop, while all that ``first`` draws queues up behind it
            while not browser.over():
                time.sleep(0.001)
            browser.ask(second, page)

        WHEN["first"] = lambda: browser.loop.call_soon_threadsafe(then_ask)
        browser.got.clear()
        browser.ask(first, page)
        await browser.sees(lambda: browser.ended(2))
        assert browser.texts() == [*(f"first {n}" for n in range(5)), "second"]

    in_a_browser(story)


def test_requests_that_wait_for_the_end_of_a_run_are_answered_in_order(in_a_browser: Any) -> None:
    async def story(browser: Browser) -> None:
        first, second, page, other = (
            browser.part("first 0"),
            browser.part("second"),
            browser.page(""),
            browser.page("other"),
        )

        def then_ask() -> None:
            while not browser.over():
                time.sleep(0.001)
            browser.ask(second, page)
            browser.ask("", other)

        WHEN["first"] = lambda: browser.loop.call_soon_threadsafe(then_ask)
        browser.ask(first, page)
        await browser.sees(lambda: "the other page" in browser.texts())
        assert browser.pages()[-1] == other

    in_a_browser(story)


@pytest.mark.parametrize("begun", [False, True], ids=["before the new page begins", "after it"])
def test_a_part_of_a_page_that_was_left_is_not_drawn(in_a_browser: Any, begun: bool) -> None:
    async def story(browser: Browser) -> None:
        second, page, other = browser.part("second"), browser.page(""), browser.page("other")
        WHEN["other"] = lambda: time.sleep(0.2)  # the parts of the page before are still known
        browser.got.clear()
        browser.ask("", other)
        if begun:
            await browser.sees(lambda: browser.pages() == [other])
        browser.ask(second, page)
        await browser.sees(lambda: browser.ended(1) and browser.session._scriptrunner is None)
        assert browser.texts() == ["the other page"]
        assert set(browser.pages()) == {other}

    in_a_browser(story)


def test_a_page_that_the_lab_turned_to_answers(in_a_browser: Any) -> None:
    async def story(browser: Browser) -> None:
        second, page, other = browser.part("second"), browser.page(""), browser.page("other")
        browser.ask("", other)
        await browser.sees(lambda: "the other page" in browser.texts() and browser.session._scriptrunner is None)
        browser.ask("", page)
        await browser.sees(lambda: browser.texts()[-1] == "second" and browser.session._scriptrunner is None)
        browser.got.clear()
        browser.ask(second, page)
        await browser.sees(lambda: browser.texts() == ["second"])

    in_a_browser(story)


def test_what_a_part_draws_is_sent_once_it_is_drawn(in_a_browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(browser: Browser) -> None:
        first, page = browser.part("first 0"), browser.page("")
        monkeypatch.setattr(bursts, "HOLD_S", 2 * PATIENCE_S)
        early: list[str] = []

        def look() -> None:  # in the page's thread; time enough for Streamlit to send ten times
            time.sleep(0.1)
            early.extend(browser.texts())

        WHEN["first is drawn"] = look
        browser.got.clear()
        browser.ask(first, page)
        await browser.sees(lambda: browser.ended(1))
        assert early == []
        assert browser.texts() == [f"first {n}" for n in range(5)]

    in_a_browser(story)


def test_a_part_that_takes_its_time_is_sent_as_it_is_drawn(in_a_browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(browser: Browser) -> None:
        first, page = browser.part("first 0"), browser.page("")
        monkeypatch.setattr(bursts, "HOLD_S", 0.01)
        early: list[str] = []

        def wait() -> None:  # in the page's thread, which draws nothing more until the browser has what was drawn
            end = time.monotonic() + PATIENCE_S
            while len(browser.texts()) < 5 and time.monotonic() < end:
                time.sleep(0.01)
            early.extend(browser.texts())

        WHEN["first is drawn"] = wait
        browser.got.clear()
        browser.ask(first, page)
        await browser.sees(lambda: browser.ended(1))
        assert early == [f"first {n}" for n in range(5)]

    in_a_browser(story)
