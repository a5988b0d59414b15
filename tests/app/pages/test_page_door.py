"""The Door page: a door is opened with a real engine behind it, talked to, and closed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.door import open_doors
from app.door.talk_page import heard_by, where_they_part
from app.lab import Lab
from telemetry.status import read_status
from tests.app.lab_process import lab_here
from tests.app.pages.test_page_reports import page_of, said
from tests.app.small_runs import wait_for, wait_for_state


def test_a_door_is_opened_talked_to_and_closed(tmp_path: Path) -> None:
    with lab_here(tmp_path) as lab:
        page = page_of("door")
        assert "OpenAI-compatible server" in said(page)
        refuses_what_cannot_be(page)
        opens(page, lab)
        (door,) = open_doors.open_doors(lab.home)
        page.run()
        assert f"{door.url}/v1" in said(page)
        assert any("api_key=" in code.value and door.key in code.value for code in page.code)
        page.chat_input[0].set_value("Hello <b>there</b>").run()
        told = said(page)
        assert "Hello \\<b>" not in told
        assert "200 tokens, TTFT" in told
        assert page.session_state["door-talk"][-1]["request"] == 0
        assert [message.name for message in page.chat_message] == ["user", "assistant"]
        button(page, "Close the door").click().run()
        wait_for_state(lab.home, door.run_id, "finished")
        wait_for(lambda: not open_doors.open_doors(lab.home))
        told = said(page.run())
        assert "OpenAI-compatible server" in told
        assert not page.error
        assert page.session_state["door-last"] == door.run_id


@pytest.mark.rare
def test_two_doors_on_one_device_answer_the_same_prompt(tmp_path: Path) -> None:
    with lab_here(tmp_path) as lab:
        page = page_of("door")
        opens(page, lab)
        page.run()
        page.chat_input[0].set_value("Hello").run()
        second = opens_a_second(page, lab)
        button(page, "Close the door", second).click().run()
        wait_for_state(lab.home, second, "finished")
        wait_for(lambda: len(open_doors.open_doors(lab.home)) == 1)
        page.run()
        button(page, "Close the door").click().run()
        wait_for(lambda: not open_doors.open_doors(lab.home))


@pytest.mark.rare
def test_an_engine_that_was_killed_is_told_on_the_page(tmp_path: Path) -> None:
    with lab_here(tmp_path) as lab:
        page = page_of("door")
        opens(page, lab)
        (door,) = open_doors.open_doors(lab.home)
        page.run()
        os.kill(int(read_status(lab.home.run_dir(door.run_id))["pid"]), signal.SIGKILL)
        wait_for_state(lab.home, door.run_id, "crashed")
        wait_for(lambda: not open_doors.open_doors(lab.home))
        page.run()
        assert "before the run was done" in page.error[0].value
        assert button(page, "Open the door")


def refuses_what_cannot_be(page: AppTest) -> None:
    page.text_area(key="door-more").set_value("kv_blocks=none at all")
    button(page, "Open the door").click().run()
    assert "kv_blocks" in page.error[0].value.replace("\\", "")


def opens(page: AppTest, lab: Lab) -> None:
    page.text_input(key="door-model").set_value("random:tiny")
    page.text_area(key="door-more").set_value("threads=1\nkv_blocks=400\nsampling.ignore_eos=on")
    page.toggle(key="door-keyed").set_value(True)
    button(page, "Open the door").click().run()
    assert "is being opened" in page.info[0].value
    wait_for(lambda: open_doors.open_doors(lab.home))


def opens_a_second(page: AppTest, lab: Lab) -> str:
    """Another variant beside the first, on the same device; both answer the next prompt. The second's run."""
    first = {door.run_id for door in open_doors.open_doors(lab.home)}
    page.text_input(key="door-model").set_value("random:tiny")
    page.text_area(key="door-more").set_value(
        "threads=1\nkv_blocks=400\nsampling.ignore_eos=on\nsampling.temperature=1.5"
    )
    button(page, "Open the door").click().run()
    wait_for(lambda: len(open_doors.open_doors(lab.home)) == 2)
    (second,) = {door.run_id for door in open_doors.open_doors(lab.home)} - first
    assert "shared device" in read_status(lab.home.run_dir(second))["labels"]
    page.run()
    page.chat_input[0].set_value("Once more").run()
    told = page.session_state["door-talk"]
    assert {answer["run"] for answer in told[-1]["answers"]} == first | {second}
    assert "The answers part after" in said(page)
    requests = [answer["request"] for answer in told[-1]["answers"]]
    assert sorted(requests) == [0, 1], "the second door's first request, and the first one's second"
    heard = {run: heard_by(told, run) for run in (*first, second)}
    assert [len(heard[run]) for run in (*first, second)] == [4, 2], "each hears its own answers"
    return second


def test_a_door_hears_the_questions_that_it_answered() -> None:
    def answered(run: str, words: str) -> dict[str, str]:
        return {"role": "assistant", "content": words, "run": run}

    asked = [{"role": "user", "content": str(turn)} for turn in range(4)]
    both = {"role": "assistant", "answers": [answered("a", "1a"), answered("b", "1b")]}
    talked = [asked[0], answered("a", "0a"), asked[1], both, asked[2], answered("b", "2b"), asked[3]]
    assert [each["content"] for each in heard_by(talked, "a")] == ["0", "0a", "1", "1a", "3"]
    assert [each["content"] for each in heard_by(talked, "b")] == ["1", "1b", "2", "2b", "3"]
    assert where_they_part("same", "same") == "Both answered the same text."
    assert where_they_part("abc", "abcdef") == where_they_part("abX", "abY").replace("2", "3")


def button(page: AppTest, label: str, of: str = ""):
    return next(one for one in page.button if one.label == label and of in str(one.key))
