"""The Door page: a door is opened with a real engine behind it, talked to, and closed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.door import open_doors
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


def button(page: AppTest, label: str):
    return next(one for one in page.button if one.label == label)
