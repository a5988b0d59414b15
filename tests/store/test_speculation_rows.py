"""Speculation in the database: acceptance by place, accepted lengths, predictions and where tokens came from."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest
from row_maker import STEP_NS, iteration_values, make_run

from store import speculation
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder

VERIFIED = [(3, 3), (3, 1), (3, 0), (2, 2)]  # drafted, accepted, by iteration


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = tmp_path_factory.mktemp("speculation")
    with Recorder(make_run(folder / "runs", "r")) as recorder:
        recorder.slices(0, request=[0], kind="prefill", tokens=8, context_len=0, emitted=1, itl_ns=None)
        recorder.iteration(**iteration_values(0, prefill_tokens=8, emitted_tokens=1))
        for i, (drafted, accepted) in enumerate(VERIFIED, 1):
            recorder.slices(
                i, request=[0], kind="verify", tokens=1 + drafted, context_len=8, drafted=drafted, accepted=accepted,
                emitted=1 + accepted, itl_ns=STEP_NS,
            )  # fmt: skip
            recorder.decision(i, "speculation", "predicted", tokens=drafted, value=9e6, time_ns=i * STEP_NS)
            recorder.iteration(
                **iteration_values(
                    i, decode_requests=1, decode_tokens=1, draft_tokens=drafted, accepted_tokens=accepted,
                    emitted_tokens=1 + accepted, draft_ns=STEP_NS // 10,
                )
            )  # fmt: skip
        recorder.slices(5, request=[0], kind="decode", tokens=1, context_len=20, emitted=1, itl_ns=STEP_NS)
        recorder.iteration(**iteration_values(5, decode_requests=1, decode_tokens=1, emitted_tokens=1))
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        Collector(folder / "runs", database).ingest_once("r")
        yield cursor


def test_only_tested_guesses_count_for_their_place(con) -> None:
    rows = speculation.acceptance_query("r").rows(con)
    assert [(r["place"], r["tested"], r["accepted"]) for r in rows] == [(1, 4, 3), (2, 3, 2), (3, 1, 1)]
    assert rows[1]["acceptance"] == pytest.approx(2 / 3)


def test_accepted_lengths_add_up_to_the_verifications(con) -> None:
    rows = speculation.lengths_query("r").rows(con)
    assert {r["accepted"]: (r["verifications"], r["whole"]) for r in rows} == {
        0: (1, 0),
        1: (1, 0),
        2: (1, 1),
        3: (1, 1),
    }


def test_totals_leave_prompts_out(con) -> None:
    row = speculation.totals_query("r").one(con)
    assert (row["drafted"], row["accepted"], row["verifications"]) == (11, 6, 4)
    assert row["mean_accepted"] == pytest.approx(1.5)
    assert row["tokens_per_pass"] == pytest.approx(11 / 5)
    assert row["draft_share"] == pytest.approx(4 * 0.1 / 6)


def test_steps_are_compared_by_batch_size_and_kind(con) -> None:
    rows = {r["verifies"]: r for r in speculation.by_batch_query("r").rows(con)}
    assert rows[True]["steps"] == 4
    assert rows[True]["tokens_per_s"] == pytest.approx(10 / 0.04)
    assert rows[False]["tokens_per_s"] == pytest.approx(1 / 0.01)


def test_predictions_stand_beside_what_the_step_took(con) -> None:
    rows = speculation.predictions_query("r").rows(con)
    assert [r["iteration"] for r in rows] == [4, 3, 2, 1]
    assert {(r["predicted_ms"], r["measured_ms"]) for r in rows} == {(9.0, 10.0)}


def test_stretches_of_time_cover_the_run(con) -> None:
    rows = speculation.over_time_query("r", points=3).rows(con)
    assert rows[-1]["t"] == pytest.approx(0.06)
    assert all(0 <= r["acceptance"] <= 1 for r in rows if r["acceptance"] is not None)


def test_passes_of_a_request_come_in_order(con) -> None:
    rows = speculation.origins_query("r", 0).rows(con)
    assert [r["emitted"] for r in rows] == [1, 4, 2, 1, 3, 1]
