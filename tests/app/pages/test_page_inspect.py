"""The parts of a finished run that open its figures: what is drawn of a run of the real engine, and what is said where nothing was recorded."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.components.selection import sound
from app.lab import Lab
from app.theme import LIGHT
from app.views.token_probabilities import shaded
from app.words.decisions import TOUCHED, touched_in_words
from app.words.energy import request_energy_in_words, run_energy_in_words
from app.words.plain import cut
from app.words.selection import nothing_recorded, stretch_of
from app.words.sql import example
from engine.config.text import tokenizer_of
from store import queries, waits
from store.energy import request_energy_query, run_energy
from store.iteration_window import steps_query
from telemetry.rows import BLOCK_EVENTS
from telemetry.status import read_status
from tests.app.lab_process import lab_here, servescope
from tests.app.pages.test_page_live import opened, stored_state, texts
from tests.app.small_runs import endless_spec, small_spec, wait_for, wait_for_state

CROWDED, SPARSE = "crowded", "sparse"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with (
        pytest.MonkeyPatch.context() as patch,
        counted(tmp_path_factory.mktemp("powercap"), patch),
        lab_here(tmp_path_factory.mktemp("inspect")) as opened_lab,
    ):
        specs = (
            small_spec(CROWDED, requests=8, tokens=8, max_num_seqs=2),
            small_spec(SPARSE, requests=4, tokens=4, max_num_seqs=2, recording="iterations", keep_logprobs=True),
        )
        for spec in specs:
            opened_lab.submit(spec)
        for spec in specs:
            wait_for_state(opened_lab.home, spec.run_id, "finished")
            wait_for(lambda spec=spec: stored_state(opened_lab, spec.run_id) == "finished")
        yield opened_lab


@contextmanager
def counted(root: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor's energy counter as Linux shows it, which grows by a joule every 5 ms."""
    (root / "intel-rapl:0").mkdir()
    for file, text in (("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "0")):
        (root / "intel-rapl:0" / file).write_text(text, encoding="ascii")
    patch.setenv("SERVESCOPE_POWERCAP", str(root))
    over = threading.Event()

    def count() -> None:
        used = 0
        while not over.wait(0.005):
            used += 1
            whole = root / "next"
            whole.write_text(f"{used * 1_000_000}", encoding="ascii")
            whole.replace(root / "intel-rapl:0" / "energy_uj")

    counts = threading.Thread(target=count)
    counts.start()
    try:
        yield
    finally:
        over.set()
        counts.join()


def said(page: AppTest) -> str:
    assert not page.exception
    return texts(page).replace("\\", "")


def test_energy_is_told_of_the_run_its_tokens_and_its_requests(lab: Lab) -> None:
    with lab.database.read() as con:
        energy = run_energy(con, CROWDED)
        shares = request_energy_query(CROWDED).rows(con)
    assert energy["energy_j"] > 0
    assert sum(row["joules"] for row in shares) <= energy["energy_j"] * (1 + 1e-9)  # the time between steps is nobody's
    requests = said(opened(CROWDED, request="7"))
    assert request_energy_in_words(shares[7]) in requests
    assert "Energy of each request" in requests
    assert run_energy_in_words(energy) in said(opened(CROWDED, tab="Charts"))


def test_an_answer_says_how_likely_each_of_its_tokens_was(lab: Lab) -> None:
    with lab.database.read() as con:
        row = queries.requests_query(SPARSE, text=True).rows(con)[2]
    assert len(row["output_logprobs"]) == row["output_tokens"] == 4
    assert all(one < 0 for one in row["output_logprobs"])
    likely = f"perplexity {math.exp(-sum(row['output_logprobs']) / 4):.3g}"
    assert likely in said(opened(SPARSE, request="2"))
    assert "Probability of each token" not in said(opened(CROWDED, request="2"))


def test_a_text_that_looks_like_markup_stays_one_where_its_probability_is_shown() -> None:
    drawn = shaded(["<b>", " & "], [1.0, 0.25], LIGHT)
    assert "&lt;b&gt;" in drawn
    assert "title='25 %'> &amp; " in drawn


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


@pytest.mark.parametrize(
    ("run_id", "parts", "words"),
    [
        (CROWDED, {"request": "99"}, "No request '99' ended in this run: 8 requests did, with numbers from 0 to 7."),
        (CROWDED, {"request": "r7; DROP"}, "No request 'r7; DROP' ended in this run"),
        (CROWDED, {"block": "600"}, "There is no block '600': this run has 0 to 599."),
        (CROWDED, {"from": "2", "to": "1"}, "from=2, to=1 is no stretch of time"),
        (CROWDED, {"from": "500000", "to": "500001"}, "There is nothing from 500000 s on: this run ended at "),
        (
            SPARSE,
            {"block": "3"},
            "What happened to blocks was not recorded (recording: iterations). Set recording to full",
        ),
    ],
)
def test_a_part_of_an_address_that_the_run_lacks_is_said(
    lab: Lab, run_id: str, parts: dict[str, str], words: str
) -> None:
    assert words in said(opened(run_id, **parts))


def test_an_address_whose_parts_are_there_says_nothing(lab: Lab) -> None:
    page = opened(CROWDED, **{"iteration": "2", "request": "7", "block": "0", "from": "0", "to": "0.5"})
    assert not page.exception
    assert not [warning.value for warning in page.warning]


def test_a_part_of_a_run_that_is_gone_names_the_run(lab: Lab) -> None:
    assert "There is no run 'crowdet'. Nearest: crowded." in said(opened("crowdet", iteration="3"))


def test_a_selection_waits_for_the_end_of_a_run_and_a_crash_is_said(lab: Lab) -> None:
    lab.submit(endless_spec("doomed"))
    status = wait_for_state(lab.home, "doomed", "running")
    wait_for(lambda: (read_status(lab.home.run_dir("doomed")).get("progress") or {}).get("iterations", 0) > 2)
    waits = "This run is not over yet: what the address names of it (iteration 1) can be opened once it is."
    assert waits in said(opened("doomed", iteration="1"))
    os.kill(status["pid"], signal.SIGKILL)
    wait_for_state(lab.home, "doomed", "crashed")
    wait_for(lambda: stored_state(lab, "doomed") == "crashed")
    shown = said(opened("doomed", iteration="9999999"))
    assert "There is no iteration '9999999': this run has 0 to" in shown
    assert "The run is crashed: its rows end where it did." in shown


def test_pictures_of_other_tabs_begin_with_what_is_selected(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, dict] = {}
    for view, picture in (
        ("pool_map", "pool_picture"),
        ("timeline", "requests_picture"),
        ("inspector", "iteration_picture"),
    ):
        monkeypatch.setattr(
            f"app.views.{view}.{picture}", lambda data, behind, name=view, **_: drawn.update({name: data})
        )
    parts = {"iteration": "3", "request": "5", "block": "1", "from": "0.1", "to": "0.2"}
    with lab.cursor() as con:
        (step,) = steps_query(CROWDED, 3, 3).rows(con)
    for tab in ("Iterations", "KV cache", "Requests"):
        opened(CROWDED, tab=tab, **parts)
    assert [drawn[view]["request"] for view in ("inspector", "pool_map", "timeline")] == [5, 5, 5]
    assert (drawn["inspector"]["iteration"], drawn["pool_map"]["iteration"], drawn["pool_map"]["block"]) == (3, 3, 1)
    assert drawn["timeline"]["range"] == [100.0, 200.0]
    assert drawn["timeline"]["iteration"] == {"start_ms": step["start_ns"] / 1e6, "end_ms": step["end_ns"] / 1e6}


def test_the_map_says_what_the_tokens_of_a_block_say(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict] = []
    monkeypatch.setattr("app.views.pool_map.pool_picture", lambda data, behind, **_: drawn.append(data))
    assert not opened(CROWDED, tab="KV cache").exception
    size = drawn[0]["block_size"]
    with lab.cursor() as con:
        (row,) = con.execute(
            "SELECT output_token_ids FROM requests WHERE run_id = ? AND request = 5", [CROWDED]
        ).fetchall()
        about = queries.run(con, CROWDED)
    ids = [*range(1, 20), *row[0]]
    tokenizer = tokenizer_of("random:tiny", about["model"]["vocab"])
    assert tokenizer is not None
    says = {int(place): text for place, text in drawn[0]["texts"]["5"].items()}
    assert says[0] == tokenizer.decode(ids[:size])
    assert says[1] == cut(tokenizer.decode(ids[size : 2 * size]), 160)


def test_the_part_that_was_selected_last_turns_the_tab(lab: Lab) -> None:
    page = opened(CROWDED, iteration="3", tab="Latency")
    assert "samples" in said(page) or page.dataframe
    page.query_params["request"] = "5"
    assert "**Request 5**" in said(page.run())
    page.query_params["iteration"] = "4"
    assert "**Request 5**" not in said(page.run())
    page.query_params["request"] = "6"
    assert "**Request 6**" in said(page.run())


def test_who_comes_back_to_the_page_finds_what_was_looked_at(lab: Lab) -> None:
    page = opened(SPARSE, iteration="2", tab="Iterations")
    for name in list(page.query_params):
        del page.query_params[name]
    page.run()
    assert {name: page.query_params[name] for name in ("run", "iteration", "tab")} == {
        "run": SPARSE,
        "iteration": "2",
        "tab": "Iterations",
    }


def test_what_a_browser_tells_is_taken_only_where_it_is_a_selection() -> None:
    assert sound({"iteration": "3", "run": "other", "request": 5, "block": "1" * 40}) == {"iteration": "3"}
    assert sound("iteration") == sound(None) == {}


def test_examples_of_sql_are_about_what_is_selected() -> None:
    asked = example("A request, step by step", "r1", {"request": "12", "iteration": "x"})
    assert "run_id = 'r1' AND request = 12 ORDER" in asked
    assert "iteration = 0 ORDER" in example("The batch of an iteration", "r1", {"iteration": "1 OR 1"})


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
        ("0.5", "1.25", (0.5, 1.25)),
        ("", "", None),
        ("2", "1", None),
        ("nan", "1", None),
        ("-1", "1", None),
        ("0", "inf", None),
    ],
)
def test_an_address_names_a_stretch_of_time(begin: str, end: str, stretch: tuple[float, float] | None) -> None:
    assert stretch_of(begin, end) == stretch
