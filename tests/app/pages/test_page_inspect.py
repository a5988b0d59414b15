"""The parts of a finished run that open its figures: what is drawn of a run of the real engine, and what is said where nothing was recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from app.lab import Lab
from app.views.inspector import nothing_recorded
from app.views.timeline import stretch_of
from app.words.decisions import TOUCHED, touched_in_words
from store import waits
from telemetry.rows import BLOCK_EVENTS
from tests.app.lab_process import lab_here, servescope
from tests.app.pages.test_page_live import opened, stored_state, texts
from tests.app.small_runs import small_spec, wait_for, wait_for_state

CROWDED, SPARSE = "crowded", "sparse"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_here(tmp_path_factory.mktemp("inspect")) as opened_lab:
        specs = (
            small_spec(CROWDED, requests=8, tokens=8, max_num_seqs=2),
            small_spec(SPARSE, requests=4, tokens=4, max_num_seqs=2, recording="iterations"),
        )
        for spec in specs:
            opened_lab.submit(spec)
        for spec in specs:
            wait_for_state(opened_lab.home, spec.run_id, "finished")
            wait_for(lambda spec=spec: stored_state(opened_lab, spec.run_id) == "finished")
        yield opened_lab


def said(page: AppTest) -> str:
    assert not page.exception
    return texts(page).replace("\\", "")


def test_a_request_says_why_it_was_not_served_sooner(lab: Lab) -> None:
    said_of = said(opened(CROWDED, request="7"))
    assert "**Why not sooner**" in said_of
    assert "Request 7 (r7) waited" in said_of
    assert "the most requests at once were running" in said_of
    assert "Because of: request" in said_of
    assert "Between its tokens passed" in said_of


def test_what_was_not_recorded_is_said(lab: Lab) -> None:
    assert "need the recording *full*" in said(opened(SPARSE, tab="Requests"))


def test_the_command_line_says_the_same(lab: Lab) -> None:
    done = servescope(lab.home, "show", CROWDED, "--why", "r7", "--json")
    told = json.loads(done.stdout)
    with lab.cursor() as con:
        (row,) = (row for row in waits.waits(con, CROWDED).to_pylist() if row["request"] == 7)
    assert told["waited"] == row
    assert told["says"][0].startswith("Request 7 (r7) waited")
    wrong = servescope(lab.home, "show", CROWDED, "--why", "r99")
    assert wrong.returncode != 0
    assert "No request 'r99' ended in the run" in wrong.stderr
    assert "r0, r1" in wrong.stderr


@pytest.mark.parametrize("asked", ["99999", "nonsense", "-1", "9" * 30])
def test_an_iteration_that_is_not_there_is_said_and_the_longest_is_shown(lab: Lab, asked: str) -> None:
    shown = said(opened(CROWDED, iteration=asked, tab="Iterations"))
    assert re.search(f"There is no iteration '{asked}': this run has 0 to \\d+.", shown)


def test_a_run_without_iterations_says_how_to_record_them(lab: Lab) -> None:
    assert "Set recording to full" in nothing_recorded("off")
    assert "before its first one" in nothing_recorded("full")
    assert not opened(SPARSE, tab="Iterations").exception


def test_blocks_touched_are_told(lab: Lab) -> None:
    assert set(TOUCHED) == set(BLOCK_EVENTS)
    row = dict.fromkeys(BLOCK_EVENTS, 0) | {"allocate": 1200, "evict": 3}
    assert touched_in_words(row) == "1,200 taken, 3 evicted."
    assert touched_in_words(dict.fromkeys(BLOCK_EVENTS, 0)) == ""


@pytest.mark.parametrize(
    ("begin", "end", "stretch"),
    [
        ("0.5", "1.25", (500.0, 1250.0)),
        ("", "", None),
        ("2", "1", None),
        ("nan", "1", None),
        ("-1", "1", None),
        ("0", "inf", None),
    ],
)
def test_an_address_names_a_stretch_of_time(begin: str, end: str, stretch: tuple[float, float] | None) -> None:
    assert stretch_of(begin, end) == stretch
