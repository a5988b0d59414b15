"""The page on a far pool: blocks of both pools, where each request's keys lie, step time over the far share."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pytest
from row_maker import iteration_values, make_run

from app.panels import PANELS
from app.panels.far_pool import charts
from app.panels.far_pool.page import far_in_words, steps_in_words
from app.theme import LIGHT
from store import lending
from store.claim_figures import step_figure_query
from store.database import Database
from store.ingest import Collector
from telemetry.recorder import Recorder

MS = 1_000_000


def lend(recorder: Recorder, step: int, request: int, blocks: int, far_blocks: int, copied: int = 0) -> None:
    recorder.lending(
        iteration=step, request=request, start_ns=step * 10 * MS, end_ns=step * 10 * MS + MS, blocks=blocks,
        copied_blocks=copied, bytes=copied * 500_000, far_blocks=far_blocks,
    )  # fmt: skip


def step(recorder: Recorder, number: int, far: tuple[int, int], keys: tuple[int, int], **more: int) -> None:
    """A step of 10 ms; ``far``: blocks held in the KV pool and in the far pool; ``keys``: in the far pool and in the
    KV pool."""
    values = iteration_values(number, start_ns=number * 10 * MS, end_ns=(number + 1) * 10 * MS)
    recorder.iteration(**values | {"prefill_requests": 0, "prefill_tokens": 0, "decode_requests": 2} | more)
    recorder.far(
        iteration=number, time_ns=(number + 1) * 10 * MS, near_blocks=far[0], far_blocks=far[1], rows=1, keys=keys[0],
        near_keys=keys[1], stored_tokens=0, sent_bytes=1_000_000, returned_bytes=500_000, compute_ns=2 * MS, link_ns=MS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Four steps: request 3 borrows 2 blocks of 16 tokens in the first one and another one in the third, which is
    copied; it ends in the last. Request 4 never borrows."""
    folder = tmp_path_factory.mktemp("far")
    with Recorder(make_run(folder / "runs", "lent")) as recorder:
        lend(recorder, 0, 3, 2, 2)
        lend(recorder, 2, 3, 1, 3, copied=1)
        lend(recorder, 3, 3, -3, 0)
        for number, context in enumerate((63, 64, 65, 66)):
            recorder.slices(number, request=[3, 4], kind=1, tokens=1, context_len=[context, 7], emitted=1, itl_ns=-1)
            far = (2, 2) if number < 2 else (2, 3)
            step(recorder, number, far, (16 * far[1], 40), prefill_requests=int(number == 0))
    with Recorder(make_run(folder / "runs", "plain")) as recorder:
        recorder.iteration(**iteration_values(0))
    with Database(folder / "db.duckdb") as database, database.read() as cursor:
        for run in ("lent", "plain"):
            Collector(folder / "runs", database).ingest_once(run)
        yield cursor


def test_where_a_requests_keys_lie_follows_what_was_lent(con) -> None:
    rows = lending.requests_query("lent", 16).rows(con)
    assert {row["request"] for row in rows} == {3}, "who borrowed nothing is not shown"
    assert [(row["far_tokens"], row["near_tokens"]) for row in rows] == [(32, 32), (32, 33), (48, 18), (48, 19)]
    drawn = charts.requests(lending.requests_query("lent", 16).table(con), LIGHT).data[0]
    assert list(drawn.y) == ["3"]
    assert np.allclose(drawn.z[0], [50, 100 * 32 / 65, 100 * 48 / 66, 100 * 48 / 67])


def test_both_pools_and_steps_are_drawn_from_the_rows(con) -> None:
    held = charts.pools(lending.pools_query("lent").table(con), LIGHT)
    assert [(t.name, list(t.y)) for t in held.data] == [("KV pool", [2, 2, 2, 2]), ("far pool", [2, 2, 3, 3])]
    query = lending.steps_query("lent")
    drawn = charts.steps(query.table(con), LIGHT).data[0]
    assert np.allclose(drawn.x, [100 * 32 / 72, 100 * 48 / 88, 100 * 48 / 88]), "the step with a prompt is left out"
    assert list(drawn.y) == [10, 10, 10]
    assert steps_in_words(query.rows(con)) == "3 decode steps with keys in the far pool, 10.0 ms on average"
    for empty in (
        charts.pools(lending.pools_query("plain").table(con), LIGHT),
        charts.requests(lending.requests_query("plain", 16).table(con), LIGHT),
        charts.steps(lending.steps_query("plain").table(con), LIGHT),
    ):
        assert not empty.data


def test_the_table_and_the_words_say_the_same(con) -> None:
    [row] = summary = lending.summary_query(["lent"]).rows(con)
    assert (row["most_far_blocks"], row["borrowers"], row["moved_blocks"], row["moved_mb"]) == (3, 1, 1, 0.5)
    assert row["sent_mb"] == 6
    assert row["far_share"] == pytest.approx(160 / 320)
    assert (row["compute_share"], row["link_share"]) == (0.2, 0.1)
    said = far_in_words(summary)
    assert said == (
        "1 request borrowed from the far pool, 3 blocks at most; 1 block (0.5 MB) moved there. Attention there took "
        "20.0% of the time in steps, the emulated link 10.0%."
    )
    assert far_in_words([]) == charts.NOTHING
    of = {
        name: step_figure_query("lent", name, {}).rows(con)[0]["value"] for name in ("far_time_share", "far_moved_mb")
    }
    assert of == {"far_time_share": pytest.approx(0.3), "far_moved_mb": 0.5}
    panel = next(panel for panel in PANELS if panel.setting == "far_pool")
    [table] = panel.comparison_tables(con, ["plain", "lent"], "")
    assert table.cells()[0][:5] == ["lent", "3", "1", "1", "0.5"]
    assert panel.run_tables(con, "plain") == []
