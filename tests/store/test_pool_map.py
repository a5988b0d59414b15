"""The KV map, held against the pool of the engine that wrote its rows, after every iteration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from app.components.pictures import FOLDER
from store import pool_map
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder
from tests.row_maker import make_run, stored
from tests.store.crowded_run import CROWDED, ROOMY, RUNS, Pool, Served

both = pytest.mark.parametrize("run_id", [CROWDED, ROOMY])


def test_the_run_shares_caches_evicts_and_preempts(served: Served) -> None:
    """Else the claims of this file say little."""
    events = {row["event"] for row in stored(served.con, CROWDED, "block")}
    assert events >= {"allocate", "share", "fill", "free", "evict"}
    assert any(pool.cached for pool in served.pools[CROWDED])
    assert any(len(holders) > 1 for pool in served.pools[CROWDED] for holders in pool.held.values())
    assert any(row["action"] == "preempted" for row in stored(served.con, CROWDED, "decision"))


@both
def test_the_pool_at_any_iteration_is_the_engines_own(served: Served, run_id: str) -> None:
    for iteration in range(0, len(served.pools[run_id]), 7):
        pool = served.pools[run_id][iteration]
        rows = {row["block"]: row for row in pool_map.pool_at(served.con, run_id, iteration).to_pylist()}
        assert {b: set(row["requests"]) for b, row in rows.items() if row["state"] == "used"} == {
            block: {request for request, _ in holders} for block, holders in pool.held.items()
        }, iteration
        assert {block for block, row in rows.items() if row["state"] == "cached"} == pool.cached, iteration
        held = pool_map.holders_query(run_id, iteration + 1).rows(served.con)
        assert {(r["block"], r["request"], r["position"]) for r in held} == {
            (block, request, place) for block, holders in pool.held.items() for request, place in holders
        }, iteration


@both
def test_counts_of_the_pool_are_those_of_the_iterations(served: Served, run_id: str) -> None:
    for step in stored(served.con, run_id, "iteration")[::5]:
        rows = pool_map.pool_at(served.con, run_id, step["iteration"]).to_pylist()
        assert sum(row["state"] == "used" for row in rows) == step["blocks_used"]
        assert sum(row["state"] == "cached" for row in rows) == step["blocks_cached"]
        assert sum(row["ref_count"] > 1 for row in rows) == step["blocks_shared"]


def test_a_window_has_the_iteration_and_no_more_events_than_asked(served: Served) -> None:
    for iteration in (0, 40, len(served.pools[CROWDED]) - 1):
        window = pool_map.pool_window(served.con, CROWDED, iteration, most_events=60)
        assert window is not None
        assert window.first <= iteration <= window.last
        beside = [e for e in window.events.to_pylist() if e["iteration"] != iteration]
        assert len(beside) <= 60
        every = [e for e in stored(served.con, CROWDED, "block") if window.first <= e["iteration"] <= window.last]
        assert window.events.num_rows == len(every)
    whole = pool_map.pool_window(served.con, CROWDED, 5)
    assert whole is not None
    assert (whole.first, whole.last, whole.start.num_rows) == (0, len(served.pools[CROWDED]) - 1, 0)
    assert whole.blocks == RUNS[CROWDED].kv_blocks


def test_a_window_of_a_long_run_ends_so_many_steps_away(served: Served) -> None:
    for iteration in (0, 3, 40):
        (bounds,) = pool_map.window_query(CROWDED, iteration, most_steps=5).rows(served.con)
        assert (bounds["first"], bounds["last"]) == (max(0, iteration - 5), iteration + 5)


def test_there_is_no_window_beyond_the_run(served: Served) -> None:
    assert pool_map.pool_window(served.con, CROWDED, 10**6) is None
    assert pool_map.pool_window(served.con, "nobody", 0) is None


def test_the_pool_is_replayed(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "runs", "pool")
    with Recorder(run_dir) as recorder:
        recorder.block(0, 3, "allocate", request=1, position=0, ref_count=1)
        recorder.block(0, 4, "allocate", request=1, position=1, ref_count=1)
        recorder.block(1, 3, "fill", request=1, position=0, ref_count=1, block_hash=77)
        recorder.block(2, 3, "share", request=2, position=0, ref_count=2, block_hash=77)
        recorder.block(3, 3, "free", request=1, position=0, ref_count=1, block_hash=77)
        recorder.block(3, 4, "free", request=1, position=1, ref_count=0)
        recorder.block(4, 3, "free", request=2, position=0, ref_count=0, block_hash=77)
        recorder.block(5, 3, "evict", ref_count=0, block_hash=77)
        recorder.block(5, 3, "allocate", request=9, position=7, ref_count=1)
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        Collector(tmp_path / "runs", database).ingest_once("pool")

        def pool(iteration: int) -> dict[int, tuple]:
            rows = pool_map.pool_at(con, "pool", iteration).to_pylist()
            return {r["block"]: (r["state"], r["requests"], r["position"], r["block_hash"]) for r in rows}

        assert pool(0) == {3: ("used", [1], 0, None), 4: ("used", [1], 1, None)}
        assert pool(1)[3] == ("used", [1], 0, 77)
        assert pool(2)[3] == ("used", [1, 2], 0, 77)
        assert pool(3) == {3: ("used", [2], 0, 77), 4: ("free", [], 1, None)}
        assert pool(4)[3] == ("cached", [], 0, 77)
        assert pool(5)[3] == ("used", [9], 7, None)


REPLAYED = """({ window, iterations }) => {
  const pool = new PoolReplay(window);
  return iterations.map((iteration) => {
    pool.seek(iteration);
    const states = Array.from({ length: window.blocks }, (_, block) => pool.state(block));
    return { states, holders: states.map((_, block) => [block, pool.holdersOf(block)]).filter(([, held]) => held.length) };
  });
}"""


def as_columns(table: Any) -> dict[str, Any]:
    return {"rows": table.num_rows} | {name: table[name].to_pylist() for name in table.column_names}


@pytest.mark.browser
def test_what_the_page_replays_is_the_engines_own_pool(served: Served, browser: Browser) -> None:
    """In any order, from the start of the run and from the middle of it."""
    last = len(served.pools[CROWDED]) - 1
    page = browser.new_page()
    page.add_script_tag(content=(FOLDER / "replay.js").read_text(encoding="utf-8"))
    for most_events, iterations in ((10**6, [last, 0, 31, 30, 77, last // 2]), (120, [45, 44, 46])):
        window = pool_map.pool_window(served.con, CROWDED, iterations[-1], most_events)
        assert window is not None
        assert window.first <= min(iterations)
        assert max(iterations) <= window.last
        data = {"blocks": window.blocks, "first": window.first}
        data |= {name: as_columns(getattr(window, name)) for name in ("start", "holders", "events")}
        told = page.evaluate(REPLAYED, {"window": data, "iterations": iterations})
        for iteration, shown in zip(iterations, told, strict=True):
            matches(shown, served.pools[CROWDED][iteration])


def matches(shown: dict[str, Any], pool: Pool) -> None:
    used, shared, cached = ({b for b, s in enumerate(shown["states"]) if s == state} for state in range(3))
    assert shared == {block for block, holders in pool.held.items() if len(holders) > 1}
    assert used | shared == set(pool.held)
    assert cached == pool.cached
    assert {block: {tuple(pair) for pair in pairs} for block, pairs in shown["holders"]} == pool.held
