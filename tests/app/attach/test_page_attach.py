"""The pages of an engine that is watched: the form on the Door page, and what the Live page draws and leaves out."""

from __future__ import annotations

from pathlib import Path

import msgpack

from app.attach.messages import ForwardPasses
from app.home import Home
from tests.app.attach.pages_of_engines import engine_with, serving, sglang, vllm
from tests.app.lab_process import lab_here, servescope
from tests.app.pages.test_page_door import button
from tests.app.pages.test_page_reports import page_of, said
from tests.app.small_runs import wait_for, wait_for_state


def test_an_engine_that_was_watched_is_drawn_with_what_it_does_not_tell(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    with serving(engine_with(lambda n: vllm(1 + n))) as (url, _):
        done = servescope(home, "attach", url, "--every", "0.1", "--seconds", "0.5")
    assert done.returncode == 0, done.stderr
    (run_id,) = home.run_ids()
    with lab_here(tmp_path) as lab:
        lab.collector.ingest_once(run_id)
        page = page_of("live", run=run_id)
        told = said(page)
        assert not page.exception
        assert "sums over its requests" in told
        assert "Not told by this engine" in told
        assert "Engine steps" in told.partition("Not told")[2]
        table = page.dataframe[0].value
        assert "TTFT" in list(table["figure"])
        assert not page.tabs, "no requests, iterations and blocks are offered"
        assert {metric.label for metric in page.metric} >= {"Running", "KV pool in use", "Output tokens"}
        listed = said(page_of("runs"))
        assert "Exception" not in listed


def test_an_engine_is_watched_from_the_door_page_and_others_machines_are_not(tmp_path: Path) -> None:
    with lab_here(tmp_path) as lab, serving(engine_with(lambda n: sglang(1 + n))) as (url, _):
        page = page_of("door")
        page.session_state["attach"] = True
        fill(page.run(), "http://10.0.0.1:8000")
        assert "10.0.0.1 is not this machine's own interface" in said(page)
        assert lab.home.run_ids() == []
        fill(page, url)
        run_id = page.session_state["attach-run"]
        wait_for(lambda: lab.home.run_dir(run_id).is_dir())
        wait_for_state(lab.home, run_id, "running")
        assert lab.queue.cancel(run_id)
        wait_for_state(lab.home, run_id, "finished")


def fill(page, url: str) -> None:  # type: ignore[no-untyped-def]
    page.text_input(key="attach-url").set_value(url)
    button(page, "Watch it").click().run()
    assert not page.exception


def test_a_pass_packed_as_a_map_needs_no_other_field() -> None:
    told = ForwardPasses().take([msgpack.packb({"wall_time": 0.5})])
    assert told is not None
    assert told.figures == [("forward_s", 0.5, False)]
