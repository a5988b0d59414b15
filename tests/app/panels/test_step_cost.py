"""What a step and a token cost: every figure of the boxes is one of the run's rows, or comes from those beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from app.charts.batch import MOST_CELLS, MOST_LANES, batch_picture
from app.home import Home
from app.runs.folder import create_run
from app.runs.process import SOURCE_ROOT, worker_environment
from app.words.step_cost import kv_rows, kv_sentence, roofline_rows, scaled, token_rows, token_sentence
from store import queries
from store.aside import rows_aside
from store.kv_bytes import kv_bytes
from store.step_cost import StepCost, mean_lengths, newest_step, step_cost, usual_step
from tests.app.small_runs import SERVE, small_spec

RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guessing": {"speculation": {"control": "fixed", "k": 3}},
    "int4": {"kv_quantization": {"codec": "int4"}},
    "kivi": {"kv_quantization": {"codec": "kivi"}},
    "one-pass": {"prefix_sharing": {"attention": "one-level"}},
}


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    home = Home(tmp_path_factory.mktemp("home")).prepare()
    specs = [small_spec(run_id, requests=6, tokens=40, **settings) for run_id, settings in RUNS.items()]
    folders = [str(create_run(home, spec)) for spec in specs]
    subprocess.run([sys.executable, "-c", SERVE, *folders], check=True, cwd=SOURCE_ROOT, env=worker_environment())
    with rows_aside(home.runs, RUNS) as rows:
        yield rows.con


def row_of(con: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, Any]:
    row = queries.run(con, run_id)
    assert row is not None
    assert row["state"] == "finished", row["error"]
    return row


def costs(con: duckdb.DuckDBPyConnection, run_id: str) -> list[tuple[StepCost, dict[str, Any]]]:
    """Every step with its row of ``iterations``."""
    row = row_of(con, run_id)
    steps = con.execute("SELECT * FROM iterations WHERE run_id = ? ORDER BY iteration", [run_id])
    names = [column[0] for column in steps.description or ()]
    found = [dict(zip(names, values, strict=True)) for values in steps.fetchall()]
    made = [(step_cost(con, run_id, one["iteration"], row), one) for one in found]
    return [(step, one) for step, one in made if step is not None]


@pytest.mark.parametrize("run_id", RUNS)
def test_every_step_reads_the_same_weights_and_its_bytes_add_up(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    known = costs(con, run_id)
    assert known
    weights = {round(step.weight_bytes) for step, _ in known}
    assert len(weights) == 1, "what is left when keys and values are taken off is the model"
    for step, row in known:
        assert step.bytes == pytest.approx(row["bytes"])
        assert step.ms == pytest.approx((row["end_ns"] - row["start_ns"]) / 1e6)
        assert step.computed == row["prefill_tokens"] + row["decode_tokens"] + row["draft_tokens"]


@pytest.mark.parametrize("run_id", RUNS)
def test_a_token_times_all_tokens_is_the_step(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    for step, row in costs(con, run_id):
        shares = {what: value for what, _, value in token_rows(step)}
        assert shares["Weights read"] == scaled(step.weight_bytes / step.tokens, "B")
        assert shares["Arithmetic"] == scaled(row["flops"] / step.tokens, "FLOP")
        assert step.tokens == (row["emitted_tokens"] if step.gives else step.computed)
        assert f"Step {row['iteration']} " in token_sentence(step)


@pytest.mark.parametrize("run_id", RUNS)
def test_what_attention_reads_is_what_the_slices_held(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    for step, _ in costs(con, run_id):
        slices = queries.batch_makeup(con, run_id, step.iteration, step.iteration).to_pylist()
        assert step.read_tokens == sum(one["context_len"] + one["tokens"] for one in slices)
        assert step.requests == len(slices)


@pytest.mark.parametrize("run_id", RUNS)
def test_the_formula_of_kv_bytes_gives_what_the_run_stored(con: duckdb.DuckDBPyConnection, run_id: str) -> None:
    kv = kv_bytes(row_of(con, run_id)["model"])
    assert kv is not None
    assert 2 * kv.layers * kv.kv_heads * kv.head_dim * kv.bits / 8 == pytest.approx(kv.per_token)
    (what, formula, value), *_ = kv_rows(kv, 10, 20, 1)
    assert what == "A token"
    factors = [float(one.replace(",", "")) for one in re.findall(r"[\d.,]+", formula)]
    assert factors[0] * factors[1] * factors[2] * factors[3] * factors[4] / factors[5] == pytest.approx(
        kv.per_token, rel=1e-3
    )
    assert value == scaled(kv.per_token, "B")
    assert kv.of(30, 4) == pytest.approx(4 * kv.of(30))
    assert (kv.window_bytes > 0) == (run_id == "kivi")


def test_lengths_that_do_not_fit_the_pool_are_said(con: duckdb.DuckDBPyConnection) -> None:
    kv = kv_bytes(row_of(con, "plain")["model"])
    assert kv is not None
    assert kv.capacity_tokens is not None
    half = kv.capacity_tokens // 2
    assert "2 such requests at once, which is enough" in kv_sentence(kv, half - 1, 1, 2)
    assert "1 such request at once. The others wait" in kv_sentence(kv, half, 1, 2)
    assert kv_bytes({"layers": 2}) is None, "an older run does not say"


def test_the_roofline_says_nothing_that_was_not_measured(con: duckdb.DuckDBPyConnection) -> None:
    step, row = costs(con, "plain")[-1]
    peaks = {"flops_per_s": 1e12, "bytes_per_s": 1e11}
    known = step_cost(con, "plain", step.iteration, {**row_of(con, "plain"), "peaks": peaks})
    assert known is not None
    assert known.balance == 10
    assert {what: value for what, _, value in roofline_rows(known)}["Arithmetic per byte"].startswith(
        scaled(row["flops"] / row["bytes"], "").strip()
    )
    unknown = step_cost(con, "plain", step.iteration, {**row_of(con, "plain"), "peaks": None})
    assert unknown is not None
    assert [what for what, *_ in roofline_rows(unknown)] == ["Arithmetic per byte"]


def test_it_begins_with_a_step_in_which_everybody_decodes(con: duckdb.DuckDBPyConnection) -> None:
    usual = usual_step(con, "plain")
    assert usual is not None
    step, most = step_cost(con, "plain", usual, row_of(con, "plain")), 4
    assert step is not None
    assert (step.gives, step.requests) == (True, most)
    assert newest_step(con, "plain") == costs(con, "plain")[-1][0].iteration
    assert usual_step(con, "nobody") is None
    assert newest_step(con, "nobody") is None
    assert mean_lengths(con, "nobody") is None
    assert mean_lengths(con, "plain") == (19, 40)


def test_the_picture_has_a_lane_for_each_request_and_a_cell_for_each_token(con: duckdb.DuckDBPyConnection) -> None:
    for step, _ in costs(con, "guessing"):
        slices = queries.batch_makeup(con, "guessing", step.iteration, step.iteration).to_pylist()
        drawn = batch_picture(slices, step)
        assert drawn.count("lab-batch-lane") == len(slices)
        cells = re.sub(r'<p class="lab-batch-legend">.*?</p>', "", drawn)
        shown = sum(cells.count(f'<i class="{kind}">') for kind in ("prefill", "decode", "draft"))
        assert shown == sum(min(one["tokens"], MOST_CELLS) for one in slices)
    many = [{"request": n, "kind": "decode", "tokens": 1, "context_len": n} for n in range(40)]
    drawn = batch_picture(many, step)
    assert drawn.count("lab-batch-lane") == MOST_LANES
    assert f"and {40 - MOST_LANES} requests more" in drawn
    assert "was not recorded" in batch_picture([], step)
