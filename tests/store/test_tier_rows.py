"""Tiers below the KV pool in the database: what was found where, and TTFT by tier."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import duckdb
import pytest
from row_maker import STEP_NS, iteration_values, make_run, request_values

from store import tiers
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder


def move(
    recorder: Recorder, iteration: int, tier: str, action: str, blocks: int, request: int = -1, ms: int = 0
) -> None:
    """Of blocks of 4 tokens and 100 bytes."""
    recorder.tier(
        iteration=iteration, time_ns=iteration * STEP_NS, tier=tier, action=action, request=request, duration_ns=ms * 1_000_000,
        asked_ns=iteration * STEP_NS - 3_000_000 if action == "load" else -1, waited_ns=ms * 500_000,
        blocks=blocks, tokens=4 * blocks, bytes=100 * blocks,
        stored_bytes=(20 if tier == "disk" else 100) * blocks, codec_ns=ms * 250_000 if tier == "disk" else 0, load_ns=-1 if request < 0 else 5_000_000,
        recompute_ns=-1 if request < 0 else 20_000_000, level="text" if action == "decline" else None,
        link_bytes_per_s=2e6 if action == "decline" else math.nan, left_s=-0.5 if action == "decline" else math.nan,
    )  # fmt: skip


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = tmp_path_factory.mktemp("tiers")
    with Recorder(make_run(folder / "runs", "tiered")) as recorder:
        for i, found in enumerate((0, 40, 24, 0)):
            recorder.iteration(**iteration_values(i) | {"prefix_hit_tokens": found})
        move(recorder, 0, "host", "store", 6)
        move(recorder, 1, "host", "load", 2, request=1, ms=2)
        move(recorder, 1, "disk", "load", 3, request=1, ms=6)
        move(recorder, 2, "host", "load", 4, request=2, ms=4)
        move(recorder, 3, "disk", "decline", 5, request=3)
        for request, (cached, ttft_ms) in enumerate([(0, 50), (40, 30), (24, 20), (0, 60), (8, 10)]):
            recorder.request(
                **request_values(request)
                | {"arrival_ns": 0, "first_token_ns": ttft_ms * 1_000_000, "cached_tokens": cached, "prompt_tokens": 48}
            )
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        Collector(folder / "runs", database).ingest_once("tiered")
        yield cursor


def test_tokens_found_are_split_by_tier(con) -> None:
    rows = tiers.hits_query("tiered", buckets=4).table(con).to_pylist()
    assert [(r["pool_tokens"], r["host_tokens"], r["disk_tokens"], r["declined_tokens"]) for r in rows] == [
        (0, 0, 0, 0),
        (20, 8, 12, 0),
        (8, 16, 0, 0),
        (0, 0, 0, 20),
    ]


def test_a_request_counts_to_the_lowest_tier_that_it_was_loaded_from(con) -> None:
    rows = {row["place"]: row for row in tiers.ttft_query("tiered").rows(con)}
    assert list(rows) == list(tiers.PLACES)
    assert {place: (row["requests"], row["ttft_ms"]) for place, row in rows.items()} == {
        "nothing": (2, 55),
        "pool": (1, 10),
        "host": (1, 20),
        "disk": (1, 30),
    }
    assert rows["disk"]["load_ms"] == 8


def test_work_is_added_up_by_tier_and_kind(con) -> None:
    rows = {(row["tier"], row["action"]): row for row in tiers.work_query("tiered").rows(con)}
    assert list(rows) == [("host", "store"), ("host", "load"), ("disk", "load"), ("disk", "decline")]
    assert (rows["host", "load"]["times"], rows["host", "load"]["tokens"], rows["host", "load"]["ms"]) == (2, 24, 6)
    assert rows["disk", "decline"]["recompute_ms"] == 20
    assert rows["host", "store"]["load_ms"] is None
    assert (rows["disk", "load"]["bytes"], rows["disk", "load"]["stored_bytes"], rows["disk", "load"]["codec_ms"]) == (
        300,
        60,
        1.5,
    )


def test_ttft_is_split_into_parts_that_add_up_to_it(con) -> None:
    rows = {row["place"]: row for row in tiers.stack_query("tiered").rows(con)}
    disk = rows["disk"]
    assert (disk["transfer_ms"], disk["decode_ms"]) == (6.5, 1.5)
    for row in rows.values():
        parts = sum(row[f"{part}_ms"] for part in ("wait", "store", "transfer", "decode", "compute"))
        assert parts == pytest.approx(row["ttft_ms"])
    assert rows["nothing"]["transfer_ms"] == 0


def test_what_copies_took_is_split_into_waited_for_and_hidden(con) -> None:
    rows = {(row["tier"], row["action"]): row for row in tiers.waits_query("tiered").rows(con)}
    assert list(rows) == [("host", "load"), ("host", "store"), ("disk", "load")]
    keys = ("ms", "waited_ms", "hidden_ms", "request_ms")
    assert [rows["disk", "load"][key] for key in keys] == [6, 3, 3, 3]
    assert rows["host", "store"]["request_ms"] is None


def test_levels_that_were_chosen_say_by_what(con) -> None:
    [row] = tiers.levels_query("tiered").rows(con)
    assert (row["request"], row["level"], row["blocks"], row["gb_per_s"], row["left_ms"]) == (
        3,
        "text",
        5,
        0.002,
        -500.0,
    )


def test_what_a_codec_lost_comes_from_the_runs_summary(con) -> None:
    assert tiers.loss_query("tiered").rows(con) == []
    own = duckdb.connect()
    own.execute("CREATE TABLE runs (run_id VARCHAR, summary VARCHAR)")
    said = {"tier_codec": {"blocks": 1, "key_error": [0.1, 0.2], "value_error": [0.3, 0.4]}}
    for run, summary in (("lossy", json.dumps(said)), ("exact", '{"tier_codec": null}'), ("gone", None)):
        own.execute("INSERT INTO runs VALUES (?, ?)", [run, summary])
    assert [tuple(row.values()) for row in tiers.loss_query("lossy").rows(own)] == [(0, 0.1, 0.3), (1, 0.2, 0.4)]
    assert tiers.loss_query("exact").rows(own) == tiers.loss_query("gone").rows(own) == []
