"""Swaps in the database: totals by direction, waiting over time, the link that is fitted, and the length from which swapping pays."""

from __future__ import annotations

import math
from collections.abc import Iterator

import duckdb
import numpy as np
import pytest
from row_maker import STEP_NS, iteration_values, make_run, request_values

from store import link_fit, swaps
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder

LAUNCH_NS, NS_PER_BYTE = 2000, 0.25  # 2 us to begin a copy, 4 GB/s


def swap(recorder: Recorder, iteration: int, direction: str, copies: int, nbytes: int, waited_ns: int = 0) -> None:
    took, start = round(copies * LAUNCH_NS + nbytes * NS_PER_BYTE), iteration * STEP_NS
    recorder.swap(
        iteration=iteration, request=3, direction=direction, asked_ns=start, start_ns=start, end_ns=start + took,
        waited_ns=waited_ns, tokens=40, blocks=5, blocks_kept=2, copies=copies, bytes=nbytes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = tmp_path_factory.mktemp("swaps")
    with Recorder(make_run(folder / "runs", "r")) as recorder:
        for i in range(4):
            recorder.iteration(**iteration_values(i, prefill_tokens=8, flops=8e9))
        swap(recorder, 1, "out", 10, 1_000_000, waited_ns=STEP_NS // 2)
        swap(recorder, 2, "in", 40, 1_000_000)
        swap(recorder, 3, "out", 10, 100_000)
        swap(recorder, 3, "ahead", 2, 400_000)
        swap(recorder, 3, "out", 0, 0)
        for k, end in enumerate((10, 19, 10)):
            recorder.request(**request_values(k, end_ns=end * STEP_NS))
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        Collector(folder / "runs", database).ingest_once("r")
        yield cursor


def test_totals_stand_by_direction_and_count_swaps_without_copies_as_swaps(con) -> None:
    out, back, ahead = swaps.totals_query("r").rows(con)
    assert [row["direction"] for row in (out, back, ahead)] == ["out", "in", "ahead"]
    assert (out["swaps"], out["copies"], out["bytes"], out["copies_per_swap"]) == (3, 20, 1_100_000, 10)
    assert out["bytes_per_copy"] == 55_000
    assert back["bytes_per_s"] == pytest.approx(1e6 / (40 * 2e-6 + 0.25e-3))
    assert out["waited_ms"] == 5


def test_waiting_is_part_of_the_steps_it_held_up(con) -> None:
    table = swaps.waits_query("r", buckets=4).table(con).to_pylist()
    assert [row["wait_ms"] for row in table] == [0, 5, 0, 0]
    assert [row["compute_ms"] for row in table] == [10, 5, 10, 10]


def test_the_link_is_found_again_from_what_swaps_took(con) -> None:
    rows = swaps.swaps_query("r").table(con).to_pylist()
    assert len(rows) == 4, "one copied nothing"
    fit = link_fit.fit_link(*zip(*[(r["copies"], r["bytes"], r["copying_ms"] / 1e3) for r in rows], strict=True))
    assert fit.launch_s == pytest.approx(2e-6, rel=1e-3)
    assert fit.bytes_per_s == pytest.approx(4e9, rel=1e-3)
    assert fit.bandwidth(8000) == pytest.approx(2e9)
    assert link_fit.fit_link([1], [1], [1]) is None


@pytest.mark.parametrize("seconds", [[3e-6, 2e-6, 1e-6], [1e-6, 9e-6, 90e-6]])
def test_a_fit_is_never_negative(seconds: list[float]) -> None:
    fit = link_fit.fit_link([10, 10, 10], [1e3, 1e4, 1e5], seconds)
    assert fit.launch_s >= 0
    assert fit.bytes_per_s > 0


def test_copies_that_take_no_longer_for_more_bytes_tell_no_rate() -> None:
    fit = link_fit.fit_link([10, 10, 10], [1e3, 1e4, 1e5], [3e-6, 2e-6, 1e-6])
    assert fit.bytes_per_s == math.inf
    assert fit.seconds(10, 1e9) == 10 * fit.launch_s


def test_the_crossing_is_where_both_cost_the_same() -> None:
    link = link_fit.LinkFit(1e-6, 1e8)
    costs = swaps.Costs(link, 2.0, 46_080, 2e8, 7e4, 1e12)
    crossing = costs.crossover_tokens()
    assert crossing > 0
    assert costs.swap_s(crossing) == pytest.approx(costs.recompute_s(crossing))
    assert costs.swap_s(2 * crossing) < costs.recompute_s(2 * crossing)
    assert swaps.Costs(link_fit.LinkFit(0, 1e12), 2.0, 46_080, 2e8, 7e4, 1e12).crossover_tokens() == 0


def test_costs_come_from_the_runs_own_rows(con) -> None:
    table, rate = swaps.swaps_query("r").table(con), swaps.prompt_rate_query("r").one(con)
    assert rate["flops_per_s"] == pytest.approx(8e9 / 8e-3)
    model = {"parameters": 1000, "vocab": 10, "hidden": 4, "layers": 2, "heads": 2, "head_dim": 8}
    costs = swaps.costs_of(table, rate, model | {"kv_bytes_per_token": 100})
    assert (costs.token_flops, costs.pair_flops) == (1920, 128)
    assert swaps.costs_of(table, rate, model) is None
    assert swaps.costs_of(table, None, model | {"kv_bytes_per_token": 100}) is None


def test_spread_is_by_session_and_jain_says_how_even(con) -> None:
    rows = swaps.spread_query("r", [0, 1, 2], [0, 1, 0]).rows(con)
    assert [(row["session"], row["requests"]) for row in rows] == [(0, 2), (1, 1)]
    assert rows[1]["tpot_ms"] == pytest.approx(2 * rows[0]["tpot_ms"])
    assert swaps.jain([1, 1, 1]) == 1
    assert swaps.jain([1, 0, 0, 0]) == 0.25
    assert np.isnan(swaps.jain([]))
