"""What a pool holds: in tokens, in requests of the workload, in bits; live and afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from row_maker import make_run, request_values, set_status

from store.database import Database
from store.ingest import Collector
from store.live_run import LiveRun
from store.pool_room import pool_room, pool_room_of
from telemetry.recorder import Recorder
from telemetry.spool import SpoolReader, spool_path

MODEL = {
    "dtype": "bfloat16",
    "kv_bits": 16.0,
    "kv_bytes_per_token": 1600,
    "kv_capacity_tokens": 1920,
    "mean_request_tokens": 240.0,
}
PACKED = MODEL | {
    "kv_codec": "int4",
    "kv_bits": 5.0,
    "kv_bytes_per_token": 500,
    "kv_full_bytes_per_token": 1600,
    "kv_capacity_tokens": 6144,
}


def recorded(runs: Path, model: dict[str, Any], requests: int) -> Path:
    run_dir = make_run(runs, "r1")
    with Recorder(run_dir) as recorder:
        recorder.run("start", "running", model=model)
        for number in range(requests):
            recorder.request(**request_values(number, prompt_tokens=100, output_tokens=20))
    set_status(run_dir, "finished")
    return run_dir


def test_at_full_precision_the_bits_are_the_model_s() -> None:
    held = pool_room_of(MODEL)
    assert (held.tokens, held.requests, held.name, held.bits) == (1920, 8.0, "bfloat16", 16.0)
    assert held.full_precision_tokens == held.tokens


def test_a_packed_pool_says_what_the_same_bytes_held_unpacked() -> None:
    held = pool_room_of(PACKED)
    assert (held.name, held.bits, held.full_precision_tokens) == ("int4", 5.0, 1920)
    assert held.requests == pytest.approx(25.6)
    assert pool_room_of(PACKED | {"kv_tails": 9}).requests == 9, "no more requests than exact windows"


def test_exact_windows_take_room_too() -> None:
    """2-bit KIVI: half of what a request of 64 tokens holds is exact."""
    kivi = PACKED | {"kv_codec": "kivi", "kv_bits": 3.2, "kv_bytes_per_token": 320, "kv_tails": 10, "kv_window": 32}
    held = pool_room_of(kivi, 64.0)
    assert held.full_precision_tokens == round(6144 * 320 / 1600) + 10 * 32
    assert held.bits_served == pytest.approx((3.2 + 16) / 2)
    assert pool_room_of(kivi, 20.0).bits_served == pytest.approx(16)
    assert pool_room_of(kivi | {"kv_tail_tokens": 40}).full_precision_tokens == round(6144 * 320 / 1600) + 10 * 40
    assert pool_room_of(PACKED).bits_served is None


@pytest.mark.parametrize("requests", [5, 200])
def test_what_fits_at_once_is_what_the_memory_could_hold_whatever_the_workload_took(requests: int) -> None:
    trimmed = MODEL | {"kv_capacity_tokens": 240 * requests, "kv_could_hold_tokens": 240_000, "kv_pool": "workload"}
    held = pool_room_of(trimmed)
    assert (held.tokens, held.could_hold_tokens, held.requests) == (240 * requests, 240_000, 1000.0)
    assert "no more than all requests of this workload can fill" in held.why_in_words
    windows = PACKED | {
        "kv_tails": requests,
        "kv_could_hold_tails": 16,
        "kv_could_hold_tokens": 240_000,
        "kv_pool": "workload",
    }
    assert pool_room_of(windows).requests == 16
    asked = trimmed | {"kv_pool": "kv_blocks"}
    assert pool_room_of(asked).requests == requests, "a pool of a given size is what it is"


def test_a_run_that_does_not_say_has_none() -> None:
    assert pool_room_of({}) is None
    older = {key: value for key, value in MODEL.items() if key not in ("mean_request_tokens", "kv_bits")}
    assert (pool_room_of(older).requests, pool_room_of(older).bits) == (None, None)


def test_the_live_figures_have_it_from_the_start_and_the_workload_as_asked(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path, PACKED, 0)
    live = LiveRun("r1")
    assert live.figures()["capacity"] is None
    for item in SpoolReader(spool_path(run_dir, "run")).read():
        assert isinstance(item.batch, pa.RecordBatch)
        live.feed("run", item.batch)
    assert json.loads(json.dumps(live.figures()["capacity"])) == {
        "tokens": 6144,
        "could_hold_tokens": None,
        "requests": 25.6,
        "mean_request_tokens": 240.0,
        "name": "int4",
        "bits": 5.0,
    }


def test_afterwards_the_mean_request_is_the_one_that_was_served(tmp_path: Path) -> None:
    recorded(tmp_path / "runs", PACKED, 3)
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        Collector(tmp_path / "runs", database).ingest_once("r1")
        held = pool_room(con, "r1")
    assert (held.mean_request_tokens, held.requests) == (120.0, pytest.approx(51.2))
