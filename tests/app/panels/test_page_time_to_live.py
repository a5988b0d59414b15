"""The page on time to live: programs' time in parts that add up, completion as a curve, pins by reason."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest
from row_maker import iteration_values, make_run, request_values

from app.panels import PANELS
from app.panels.time_to_live import charts
from app.panels.time_to_live.page import pins_in_words, programs_in_words
from app.theme import LIGHT
from store import programs
from store.claim_figures import step_figure_query
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder

S = 1_000_000_000


def turn(recorder: Recorder, number: int, program: int | None, times: tuple[float, float, float], **more) -> None:
    """``times``: arrival, first scheduled and end, in s."""
    arrival, scheduled, end = (round(t * S) for t in times)
    recorder.request(
        **request_values(number, arrival_ns=arrival, first_scheduled_ns=scheduled, first_token_ns=scheduled, end_ns=end)
        | {"program": program, "prompt_tokens": 100, "output_tokens": 11, **more}
    )


def pin(recorder: Recorder, at_s: float, action: str, pinned: int, reason: str | None = None) -> None:
    recorder.pin(
        iteration=0, time_ns=round(at_s * S), action=action, reason=reason, request=0, blocks=4, tokens=64, pinned=pinned,
        ttl_ns=2 * S if action == "pin" else None, held_ns=S if action == "unpin" else None,
        chance=0.5 if action == "pin" else None, recompute_ns=None, wait_ns=None, cost_ns=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Two programs of two turns and one that was given up, and a request that stands alone; the first program's second turn found
    64 of the 110 tokens that its first had left."""
    folder = tmp_path_factory.mktemp("programs")
    with Recorder(make_run(folder / "runs", "pinned")) as recorder:
        recorder.iteration(**iteration_values(0))
        turn(recorder, 0, 0, (0, 1, 3))
        turn(recorder, 1, 1, (0, 3, 4))
        turn(recorder, 2, 0, (5, 5.5, 7), prompt_tokens=150, cached_tokens=64)
        turn(recorder, 3, 1, (6, 7, 9), prompt_tokens=150, cached_tokens=120)
        turn(recorder, 4, 4, (1, 2, 3), end_reason="cancelled")
        turn(recorder, 5, None, (0, 1, 2))
        pin(recorder, 3, "pin", 4)
        pin(recorder, 4, "pin", 8)
        pin(recorder, 5, "unpin", 4, "back")
        pin(recorder, 6, "unpin", 0, "forced")
    with Recorder(make_run(folder / "runs", "plain")) as recorder:
        turn(recorder, 0, 0, (0, 1, 3))
        turn(recorder, 1, 0, (5, 6, 7))
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        for run in ("pinned", "plain"):
            Collector(folder / "runs", database).ingest_once(run)
        yield cursor


def test_the_parts_of_a_programs_time_add_up_to_it(con) -> None:
    rows = programs.programs_query("pinned").rows(con)
    assert [(r["running_s"], r["queued_s"], r["tool_s"]) for r in rows] == [(3.5, 1.5, 2.0), (3.0, 4.0, 2.0)]
    assert [r["completion_s"] for r in rows] == [7.0, 9.0]
    assert [r["recomputed_tokens"] for r in rows] == [110 - 64, 0]
    [row] = programs.summary_query(["pinned"]).rows(con)
    assert (row["programs"], row["done"], row["completion_s"]) == (3, 2, 8.0)


def test_completion_is_a_curve_over_the_programs_that_were_done(con) -> None:
    rows = programs.completion_query("pinned").rows(con)
    assert [(r["completion_s"], r["share"]) for r in rows] == [(7.0, 1 / 3), (9.0, 2 / 3)]


def test_claims_read_the_same_figures(con) -> None:
    of = {name: step_figure_query("pinned", name, {}).rows(con)[0]["value"] for name in
          ("job_completion_s", "recomputed_tokens", "pins_in_time_share")}  # fmt: skip
    assert of == {"job_completion_s": 8.0, "recomputed_tokens": 23.0, "pins_in_time_share": 0.5}


def test_charts_tables_and_words_say_what_the_rows_say(con) -> None:
    drawn = charts.programs(programs.programs_query("pinned").table(con), LIGHT)
    assert [(trace.name, list(trace.y)) for trace in drawn.data] == [
        ("running", [3.5, 3.0]),
        ("queue", [1.5, 4.0]),
        ("tool", [2.0, 2.0]),
    ]
    curve = charts.completion(programs.completion_query("pinned").table(con), LIGHT).data[0]
    assert list(curve.x) == [0, 7, 9]
    pinned = charts.pinned(programs.pinned_query("pinned").table(con), LIGHT)
    assert [(t.name, list(t.y)) for t in pinned.data] == [
        ("pinned", [4, 8, 4, 0]),
        ("tool back in time", [4]),
        ("forced: the room was needed", [0]),
    ]
    pins = programs.pins_query("pinned").rows(con)
    said = pins_in_words(pins)
    assert said == "2 turns pinned; pins ended: tool back in time 1, forced: the room was needed 1."
    assert pins_in_words([]) == "No turn was pinned."
    assert "2 of 3 programs done, after 8.00 s on average" in programs_in_words(
        programs.summary_query(["pinned"]).rows(con)
    )
    assert programs_in_words([]) == charts.NO_PROGRAM
    for empty in (
        charts.programs(programs.programs_query("nobody").table(con), LIGHT),
        charts.completion(programs.completion_query("nobody").table(con), LIGHT),
        charts.pinned(programs.pinned_query("nobody").table(con), LIGHT),
    ):
        assert not empty.data


def test_runs_without_pins_stand_beside_those_with_them(con) -> None:
    panel = next(panel for panel in PANELS if panel.setting == "time_to_live")
    [table] = panel.comparison_tables(con, ["plain", "pinned"], "")
    assert [row[:4] for row in table.cells()] == [["plain", "1", "1", "7.00"], ["pinned", "3", "2", "8.00"]]
    assert panel.comparison_tables(con, ["plain"], "") == []
    assert panel.run_tables(con, "plain") == []
    assert len(panel.run_tables(con, "pinned")) == 2
