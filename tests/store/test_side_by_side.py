"""Two runs beside each other, held against a walk through the rows of both."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from app.panels.sentences import decision_in_words
from app.words.side_by_side import parting_in_words, waited_in_words
from store import queries, waits
from store.database import Database
from store.ingest import Collector
from store.side_by_side import (
    ALIGNED,
    aligned,
    emitted_query,
    parting,
    requests_beside,
    tokens_query,
    waited_apart,
)
from telemetry.recorder import Recorder
from tests.row_maker import iteration_values, make_run, request_values, set_status, stored
from tests.store.crowded_run import CROWDED, ROOMY, Served

NAMES = {"before": "crowded pool", "after": "roomy pool"}


def batches(served: Served, run_id: str) -> dict[int, set[tuple[Any, ...]]]:
    """Who computed what, by iteration."""
    made: dict[int, set[tuple[Any, ...]]] = defaultdict(set)
    for row in stored(served.con, run_id, "slice"):
        made[row["iteration"]].add((row["request"], row["kind"], row["tokens"]))
    return made


def test_every_request_stands_beside_itself_with_the_figures_of_its_rows(served: Served) -> None:
    rows = {run: {r["request_id"]: r for r in stored(served.con, run, "request")} for run in (CROWDED, ROOMY)}
    told = requests_beside(served.con, CROWDED, ROOMY)
    assert {row["request_id"] for row in told} == set(rows[CROWDED]) == set(rows[ROOMY])
    waited = {run: {r["request"]: r for r in waits.waits(served.con, run).to_pylist()} for run in (CROWDED, ROOMY)}
    for row in told:
        for side, run in (("before", CROWDED), ("after", ROOMY)):
            own = rows[run][row["request_id"]]
            assert row[side] == own["request"]
            assert row[f"ttft_ms_{side}"] == pytest.approx((own["first_token_ns"] - own["arrival_ns"]) / 1e6)
            assert row[f"e2e_ms_{side}"] == pytest.approx((own["end_ns"] - own["arrival_ns"]) / 1e6)
            assert row[f"output_tokens_{side}"] == own["output_tokens"]
            assert row["waited"][side] == waited[run][own["request"]]


def test_what_one_waited_for_and_the_other_did_not_adds_up_to_the_difference(served: Served) -> None:
    told = requests_beside(served.con, CROWDED, ROOMY)
    for row in told:
        before, after = (row["waited"][side] for side in ("before", "after"))
        apart = waited_apart(row)
        assert [abs(a - b) for _, b, a in apart] == sorted((abs(a - b) for _, b, a in apart), reverse=True)
        for reason, ms_before, ms_after in apart:
            assert (ms_before, ms_after) == (before[f"{reason}_ms"], after[f"{reason}_ms"])
        left_out = 0.1 * len(waits.WAITS)
        assert sum(a - b for _, b, a in apart) == pytest.approx(after["waited_ms"] - before["waited_ms"], abs=left_out)
    only_crowded = [row for row in told for reason, b, a in waited_apart(row) if reason == "blocks" and b and not a]
    assert only_crowded, "the small pool made somebody wait for blocks, the large one nobody"
    said = waited_in_words(only_crowded[0], waited_apart(only_crowded[0]), NAMES)
    assert any(line.startswith("For KV blocks: ") and line.endswith("not at all with roomy pool.") for line in said)


def test_schedules_part_where_the_batches_first_differ(served: Served) -> None:
    before, after = batches(served, CROWDED), batches(served, ROOMY)
    first = min(i for i in before.keys() | after.keys() if before.get(i, set()) != after.get(i, set()))
    told = parting(served.con, CROWDED, ROOMY)
    assert told is not None
    assert (told.at, told.same) == (first, len([i for i in before.keys() | after.keys() if i < first]))
    assert told.iterations == {"before": len(before), "after": len(after)}
    for side, own, other in (("before", before, after), ("after", after, before)):
        only = {(row["request"], row["kind"], row["tokens"]) for row in told.only[side]}
        assert only == own.get(first, set()) - other.get(first, set())
    said = parting_in_words(told, NAMES, decision_in_words)
    assert f"iteration {first}" in said[0]
    assert said[1].startswith("crowded pool, at ")
    assert said[2].startswith("roomy pool, at ")


def test_a_run_beside_itself_never_parts(served: Served) -> None:
    told = parting(served.con, CROWDED, CROWDED)
    assert told is not None
    assert (told.at, told.same) == (None, len(batches(served, CROWDED)))
    assert "the same in all" in parting_in_words(told, NAMES, decision_in_words)[0]
    assert all(waited_apart(row) == [] for row in requests_beside(served.con, CROWDED, CROWDED))


def test_a_run_without_recorded_batches_says_so(served: Served) -> None:
    assert parting(served.con, CROWDED, "nobody") is None
    assert "recording full" in parting_in_words(None, NAMES, decision_in_words)[0]


@pytest.mark.parametrize("by", ALIGNED)
def test_iterations_are_placed_by_time_number_or_tokens_so_far(served: Served, by: str) -> None:
    steps = queries.iterations(served.con, CROWDED, 40)
    so_far, tokens = 0, {}
    for row in stored(served.con, CROWDED, "iteration"):
        so_far += row["emitted_tokens"]
        tokens[row["iteration"]] = {"time": row["end_ns"] / 1e9, "iteration": row["iteration"], "token": so_far}
    placed = aligned(served.con, CROWDED, steps, by).to_pylist()
    assert [row["t"] for row in placed] == [pytest.approx(tokens[row["iteration"]][by]) for row in placed]
    assert emitted_query(CROWDED).rows(served.con)[-1]["tokens"] == so_far


def test_the_tokens_of_a_request_come_when_its_steps_end(served: Served) -> None:
    ends = {row["iteration"]: row["end_ns"] for row in stored(served.con, ROOMY, "iteration")}
    slices = stored(served.con, ROOMY, "slice")
    for row in stored(served.con, ROOMY, "request")[::7]:
        told = tokens_query(ROOMY, row["request"]).rows(served.con)
        own = [s for s in slices if s["request"] == row["request"] and s["emitted"]]
        assert [t["iteration"] for t in told] == [s["iteration"] for s in own]
        assert told[-1]["tokens"] == row["output_tokens"]
        for t in told:
            assert t["since_arrival_ms"] == pytest.approx((ends[t["iteration"]] - row["arrival_ns"]) / 1e6)


def test_requests_of_one_name_stand_together_by_arrival_and_one_that_did_not_end_stands_alone(tmp_path: Path) -> None:
    for run_id, count in (("one", 2), ("two", 3)):
        run_dir = make_run(tmp_path / "runs", run_id)
        with Recorder(run_dir) as recorder:
            recorder.iteration(**iteration_values(0))
            for k in range(count):
                recorder.request(**request_values(k, request_id="twin"))
        set_status(run_dir, "finished")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        for run_id in ("one", "two"):
            Collector(tmp_path / "runs", database).ingest_once(run_id)
        told = requests_beside(con, "one", "two")
    assert [(row["before"], row["after"]) for row in told] == [(0, 0), (1, 1), (None, 2)]
    assert waited_in_words(told[-1], [], NAMES) == [
        "It did not end with crowded pool, so its waiting there is not known."
    ]
