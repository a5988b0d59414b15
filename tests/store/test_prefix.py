"""Prefix sharing in the database: savings over time, effects as shares, and the tree rebuilt at any iteration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from row_maker import iteration_values, make_run

from store import migrations, prefix
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = tmp_path_factory.mktemp("prefix")
    with Recorder(make_run(folder / "runs", "r")) as recorder:
        # request 0 computes blocks 5, 6; request 1 shares 5 and computes 7; 0 ends; 6 is evicted and taken for something else
        recorder.blocks(0, block=[5, 6], event="allocate", request=0, position=[0, 1], ref_count=1)
        recorder.blocks(0, block=[5, 6], event="fill", request=0, position=[0, 1], ref_count=1, block_hash=[50, 60])
        recorder.block(1, 5, "share", request=1, position=0, ref_count=2, block_hash=50)
        recorder.block(1, 7, "allocate", request=1, position=1, ref_count=1)
        recorder.block(1, 7, "fill", request=1, position=1, ref_count=1, block_hash=70)
        recorder.block(2, 6, "free", request=0, position=1, ref_count=0, block_hash=60)
        recorder.block(2, 5, "free", request=0, position=0, ref_count=1, block_hash=50)
        recorder.block(3, 6, "evict", ref_count=0, block_hash=60)
        recorder.block(3, 6, "allocate", request=2, position=0, ref_count=1)
        for i in range(4):
            recorder.iteration(
                **iteration_values(
                    i, prefill_tokens=30, prefix_hit_tokens=10 * (i == 1), preempted_hit_tokens=7 * (i == 2), blocks_used=3, blocks_spared=int(i == 1),
                    bytes=300.0, kv_bytes_spared=100.0 * (i == 1),
                )
            )  # fmt: skip
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        Collector(folder / "runs", database).ingest_once("r")
        yield cursor


def nodes(con: duckdb.DuckDBPyConnection, iteration: int) -> dict[int, tuple]:
    rows = prefix.tree(con, "r", iteration).to_pylist()
    return {r["hash"]: (r["parent"], r["position"], r["requests"], r["holders"], r["state"]) for r in rows}


def test_the_tree_is_rebuilt_at_any_iteration(con) -> None:
    assert nodes(con, 0) == {50: (None, 0, 1, 1, "in use"), 60: (50, 1, 1, 1, "in use")}
    assert nodes(con, 1)[50] == (None, 0, 2, 2, "in use")
    assert nodes(con, 1)[70] == (50, 1, 1, 1, "in use")
    assert nodes(con, 2)[60] == (50, 1, 1, 0, "cached")
    assert nodes(con, 2)[50] == (None, 0, 2, 1, "in use")
    assert nodes(con, 3)[60] == (50, 1, 1, 0, "evicted")


def test_changes_in_turn_give_the_tree_of_any_iteration(con) -> None:
    states = {1: "in use", 2: "cached", 3: "evicted"}
    changes = prefix.tree_changes_query("r").rows(con)
    assert {change["after"] for change in changes} == {1, 2, 3}
    for iteration in range(max(change["iteration"] for change in changes) + 1):
        now: dict[int, int] = {}
        for change in changes:
            if change["iteration"] <= iteration:
                assert now.get(change["hash"], 0) == change["before"]
                now[change["hash"]] = change["after"]
        tree = prefix.tree(con, "r", iteration).to_pylist()
        assert {row["hash"]: row["state"] for row in tree} == {block: states[state] for block, state in now.items()}


def test_savings_add_up_over_time(con) -> None:
    rows = prefix.savings(con, "r").to_pylist()
    assert [r["found_tokens"] for r in rows] == [0, 10, 10, 10]
    assert [r["computed_tokens"] for r in rows] == [30, 60, 90, 120]
    assert rows[-1]["hit_rate"] == pytest.approx(10 / 130)
    assert [r["blocks_spared"] for r in rows] == [0, 1, 0, 0]
    assert prefix.savings(con, "r", 2).to_pylist()[-1] == rows[-1]


def test_effects_are_shares_of_what_there_would_have_been(con) -> None:
    (row,) = prefix.effects(con, "r").to_pylist()
    assert row["prefill_share"] == pytest.approx(10 / 130)
    assert row["memory_share"] == pytest.approx(1 / 13)
    assert row["read_share"] == pytest.approx(100 / 1300)
    assert (row["tokens_found"], row["tokens_found_again"]) == (10, 7)


def test_an_unknown_run_has_nothing(con) -> None:
    assert prefix.tree(con, "x' OR '1'='1", 9).num_rows == 0
    assert prefix.savings(con, "nobody").num_rows == 0


def test_iterations_recorded_before_these_columns_spared_nothing(tmp_path: Path) -> None:
    con = duckdb.connect(str(tmp_path / "old.duckdb"))
    con.execute("CREATE TABLE iterations (run_id VARCHAR, iteration BIGINT)")
    con.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
    con.execute("INSERT INTO schema_version VALUES (1)")
    con.execute("INSERT INTO iterations VALUES ('old', 3)")
    migrations.migrate(con, version=2)
    assert con.execute("SELECT blocks_spared, kv_bytes_spared FROM iterations").fetchall() == [(0, 0.0)]


def test_what_an_eviction_later_cost_is_told(tmp_path: Path) -> None:
    with Recorder(make_run(tmp_path / "runs", "r")) as recorder:
        # request 0 fills block 1; it is evicted for request 2; request 3 computes the text again, in block 4; nobody asks for hash 60
        recorder.blocks(0, block=[1, 2], event="allocate", request=0, position=[0, 1], ref_count=1)
        recorder.blocks(0, block=[1, 2], event="fill", request=0, position=[0, 1], ref_count=1, block_hash=[50, 60])
        recorder.blocks(1, block=[1, 2], event="free", request=0, position=[0, 1], ref_count=0, block_hash=[50, 60])
        recorder.blocks(2, block=[2, 1], event="evict", ref_count=0, block_hash=[60, 50])
        recorder.blocks(2, block=[2, 1], event="allocate", request=2, position=[0, 1], ref_count=1)
        recorder.block(5, 4, "allocate", request=3, position=0, ref_count=1)
        recorder.block(5, 4, "fill", request=3, position=0, ref_count=1, block_hash=50)
        recorder.iteration(**iteration_values(0))
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        Collector(tmp_path / "runs", database).ingest_once("r")
        rows = prefix.evictions(con, "r").to_pylist()
    assert [(r["block"], r["written_by"], r["taken_by"], r["computed_again_by"]) for r in rows] == [
        (2, 0, 2, None),
        (1, 0, 2, 3),
    ]
    assert (rows[1]["evicted_at"], rows[1]["position"], rows[1]["computed_again_at"]) == (2, 0, 5)
