"""The page on disaggregation: parts of lifetimes that add up, transfers by size, and both halves' share of the time."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest
from row_maker import STEP_NS, iteration_values, make_run, request_values

from app.panels import PANELS
from app.panels.placement import charts
from app.panels.placement.page import (
    halves_in_words,
    lifetimes_in_words,
    memory_in_words,
    threads_in_words,
    transfers_in_words,
)
from app.panels.placement.words import PARTS
from app.theme import LIGHT
from store import handovers
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder

MS = 1_000_000


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Three requests in two halves, the last of which ended with its first token; and two in one engine."""
    folder = tmp_path_factory.mktemp("placements")
    with Recorder(make_run(folder / "runs", "apart")) as recorder:
        for i in range(4):
            half = "prefill" if i % 2 else "decode"
            tokens = {"prefill_tokens": i % 2, "decode_tokens": 1 - i % 2}
            recorder.iteration(**iteration_values(i, half=half, half_threads=1 + i // 2, **tokens))
        for number, first in enumerate((20, 30, 40)):
            times = {"first_scheduled_ns": 10 * MS, "first_token_ns": first * MS}
            end = first if number == 2 else 200
            recorder.request(**request_values(number, arrival_ns=number * MS, end_ns=end * MS, **times))
            if number < 2:
                recorder.handover(
                    request=number, prefilled_ns=first * MS, asked_ns=(first + 5) * MS, start_ns=(first + 6) * MS,
                    end_ns=(first + 15) * MS, joined_ns=(first + 18) * MS, tokens=64, blocks=4, blocks_kept=0, copies=8,
                    bytes=(number + 1) * 9_000_000,
                )  # fmt: skip
    with Recorder(make_run(folder / "runs", "together")) as recorder:
        recorder.iteration(**iteration_values(0))
        for number in range(2):
            recorder.request(
                **request_values(number, first_scheduled_ns=5 * MS, first_token_ns=10 * MS, end_ns=90 * MS)
            )
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        for run in ("apart", "together"):
            Collector(folder / "runs", database).ingest_once(run)
        yield cursor


def test_the_parts_of_a_lifetime_add_up_to_it(con: duckdb.DuckDBPyConnection) -> None:
    rows = handovers.lifetimes_query("apart").rows(con)
    assert [[row[f"{part}_ms"] for part in PARTS] for row in rows] == [
        [10, 10, 8, 10, 162],
        [9, 20, 8, 10, 152],
        [8, 30, 0, 0, 0],
    ]
    assert [sum(row[f"{part}_ms"] for part in PARTS) for row in rows] == [200, 199, 38]
    [both] = handovers.lifetimes_query("apart", bars=1).rows(con)
    assert (both["requests"], both["prefill_ms"]) == (3, 20)


def test_runs_in_one_engine_stand_beside_those_in_two(con: duckdb.DuckDBPyConnection) -> None:
    rows = handovers.parts_query(["together", "apart"]).rows(con)
    assert [(row["run_id"], row["handed_over"]) for row in rows] == [("together", 0), ("apart", 2)]
    assert (rows[0]["transfer_ms"], rows[0]["decode_queue_ms"], rows[0]["decode_ms"]) == (0, 0, 80)
    panel = next(panel for panel in PANELS if panel.setting == "placement")
    [table] = panel.comparison_tables(con, ["together", "apart"], "")
    assert table.heads[3:] == tuple(f"{name}, ms" for name in PARTS.values())
    assert panel.comparison_tables(con, ["together"], "") == []
    assert panel.run_tables(con, "together") == []
    assert len(panel.run_tables(con, "apart")) == 2


def test_each_half_is_busy_in_its_own_steps(con: duckdb.DuckDBPyConnection) -> None:
    halves = handovers.halves_query("apart").rows(con)
    assert [(row["half"], row["steps"], row["busy_share"], row["computed"]) for row in halves] == [
        ("prefill", 2, 0.5, 2),
        ("decode", 2, 0.5, 2),
    ]
    assert halves_in_words(halves).startswith("prefill half in steps 50.0 %")
    shares = handovers.busy_query("apart", buckets=2).rows(con)
    assert [(row["prefill_share"], row["decode_share"]) for row in shares] == [(0.5, 0.5), (0.5, 0.5)]
    assert shares[-1]["t"] == 4 * STEP_NS / 1e9
    assert handovers.busy_query("together").rows(con) == []


def test_each_half_has_the_threads_of_its_steps(con: duckdb.DuckDBPyConnection) -> None:
    shares = handovers.share_query("apart", buckets=2).rows(con)
    assert [(row["prefill_threads"], row["decode_threads"]) for row in shares] == [(1, 1), (2, 2)]
    figure = charts.share(handovers.share_query("apart", buckets=4).table(con), LIGHT)
    assert [next(iter(trace.y)) for trace in figure.data][1] == 1
    halves = handovers.halves_query("apart").rows(con)
    assert threads_in_words(halves).startswith("prefill half 1.50 threads")
    assert handovers.share_query("together").rows(con) == []


def test_memory_is_told_as_it_was_counted() -> None:
    own = {"weight_bytes": 500_000_000}
    assert "twice, 1,000 MB" in memory_in_words({"prefill": own, "decode": own})
    one = own | {"shared_bytes": 800_000_000, "private_bytes": 40_000_000}
    said = memory_in_words({"prefill": one, "decode": one | {"private_bytes": 90_000_000}})
    assert "share 800 MB" in said
    assert said.endswith("prefill half 40 MB of its own; decode half 90 MB of its own.")
    assert memory_in_words({}) == ""


def test_where_nothing_was_copied_a_line_says_so() -> None:
    kept = {"mb": 0.0, "copying_ms": 0.0, "blocks_kept": 4}
    assert transfers_in_words([kept, kept]).startswith("2 requests were handed over with 8 blocks that stayed in place")


def test_charts_and_words_say_what_the_rows_say(con: duckdb.DuckDBPyConnection) -> None:
    lifetimes = charts.lifetimes(handovers.lifetimes_query("apart").table(con), LIGHT)
    assert [trace.name for trace in lifetimes.data] == list(PARTS.values())
    assert list(lifetimes.data[1].y) == [10, 20, 30]
    sent = handovers.transfers_query("apart").table(con)
    assert list(charts.transfers(sent, LIGHT).data[0].x) == [9.0, 18.0]
    assert transfers_in_words(sent.to_pylist()).startswith("27.0 MB in 2 transfers, 1.50 GB/s")
    assert transfers_in_words([]) == charts.NOTHING
    busy = charts.busy(handovers.busy_query("apart", buckets=2).table(con), LIGHT)
    assert list(busy.data[0].y) == [50, 50]
    [row] = handovers.parts_query(["apart"]).rows(con)
    assert "prefill 20.0 ms" in lifetimes_in_words(row)
    assert lifetimes_in_words(row).endswith("2 were handed over.")
    assert "one engine computed both" in lifetimes_in_words(row | {"handed_over": 0})
    assert lifetimes_in_words(None) == "No request got a token."
