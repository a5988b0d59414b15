"""Runs that differ in the codec alone, side by side; what reading fewer bytes is worth, as a model and as measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from app.panels.kv_quantization import codec_charts as charts
from app.panels.kv_quantization import codec_runs as codecs
from app.panels.kv_quantization.codec_page import (
    against_in_words,
    compare_command,
    pool_in_words,
    preempted_rows,
    recoded,
)
from app.panels.kv_quantization.codec_runs import codec_name
from app.panels.kv_quantization.crossover import Crossover, ReadingModel, StepRatios, reading_model, step_ratios
from app.theme import DARK, LIGHT
from engine.config import EngineConfig, KVQuantization
from store import codec_runs as queries
from store.database import Database
from store.quality import FULL_PRECISION, QualityIndex
from telemetry.rows import DecisionRow, DeviceRow, IterationRow, RequestRow, SliceRow, columns
from tests.app.small_runs import small_spec

WORKLOAD = "w" * 64
MODEL = {
    "name": "random:tiny",
    "parameters": 1,
    "dtype": "bfloat16",
    "device": "cpu",
    "kv_bits": 16.0,
    "kv_bytes_per_token": 320,
    "kv_capacity_tokens": 160,
}
PACKED = MODEL | {
    "kv_codec": "int4",
    "kv_bits": 5.0,
    "kv_bytes_per_token": 100,
    "kv_full_bytes_per_token": 320,
    "kv_capacity_tokens": 512,
    "kv_attention_s": {"context_tokens": [100, 200], "packed": [3e-3, 5e-3], "plain": [1e-3, 1.5e-3]},
}


class Store:
    """A database with runs that were never served."""

    def __init__(self, con: Any, folder: Path) -> None:
        self.con, self.folder, self.count = con, folder, 0

    def run(self, run_id: str, codec: KVQuantization | None, **changes: Any) -> str:
        engine = EngineConfig(model="random:tiny", device="cpu", kv_quantization=codec)
        engine = engine.model_copy(update=changes.pop("engine", {}))
        row = {
            "run_id": run_id,
            "state": "finished",
            "workload_hash": WORKLOAD,
            "created_unix_ns": self.count,
            "labels": "[]",
            "spec": json.dumps({"engine": engine.model_dump(mode="json")}),
            "model": json.dumps(MODEL if codec is None else PACKED),
            "peaks": json.dumps({"bytes_per_s": 1e9}),
            "figures": json.dumps({"output_tokens_per_s": 10.0 if codec is None else 14.0}),
        } | changes
        marks = ", ".join("?" for _ in row)
        self.con.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        self.count += 1
        return run_id

    def insert(self, table: str, row_type: type, run_id: str, rows: list[dict[str, Any]]) -> None:
        names = columns(row_type)
        values = {"run_id": [run_id] * len(rows)}
        for name, column in names.items():
            usual = (
                column.choices[0]
                if column.choices
                else None
                if column.nullable
                else ""
                if column.arrow_type == "string"
                else 0
            )
            values[name] = [row.get(name, usual) for row in rows]
        listed = ", ".join(f'"{name}"' for name in values)
        for row in zip(*values.values(), strict=True):
            self.con.execute(f"INSERT INTO {table} ({listed}) VALUES ({', '.join('?' for _ in row)})", list(row))

    def steps(self, run_id: str, ms_of: Any, batches: tuple[int, ...] = (2, 4), preempted: int = 0) -> None:
        rows = []
        for batch in batches:
            for number in range(40):
                context = 10 * (number + 1)
                start = len(rows) * 10**9
                rows.append(
                    {
                        "iteration": len(rows),
                        "start_ns": start,
                        "end_ns": start + int(1e6 * ms_of(batch, context)),
                        "running": batch,
                        "decode_requests": batch,
                        "decode_tokens": batch,
                        "context_tokens": context,
                        "blocks_total": 10,
                        "blocks_used": min(10, 1 + number // 4),
                        "preempted": int(preempted > 0 and number == 39),
                    }
                )
        rows.append(
            {"iteration": len(rows), "end_ns": 9 * 10**12, "prefill_tokens": 9, "running": 5, "blocks_total": 10}
        )
        self.insert("iterations", IterationRow, run_id, rows)


@pytest.fixture
def store(tmp_path: Path):
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        yield Store(con, tmp_path / "runs")


def test_only_runs_that_differ_in_the_codec_alone_stand_side_by_side(store: Store) -> None:
    store.run("old-full", None)
    store.run("full", None)
    store.run("warm", KVQuantization(codec="fp8"), labels='["warm-up"]')
    store.run("int8", KVQuantization(codec="int8"))
    store.run("other-pool", KVQuantization(codec="kivi"), engine={"kv_blocks": 7})
    store.run("other-requests", KVQuantization(codec="fp8"), workload_hash="x" * 64)
    store.run("not-over", KVQuantization(codec="fp8"), state="running")
    store.run("other-weights", KVQuantization(codec="fp8"), model=json.dumps(PACKED | {"parameters": 2}))
    store.run("unreadable", None, spec='{"engine": {"codec": "int3"}}')
    store.run("int4", KVQuantization(codec="int4"))
    store.run("grouped", KVQuantization(codec="int4", group=8))
    beside = codecs.side_by_side(store.con, "int4", WORKLOAD)
    assert beside.names == {
        "full": FULL_PRECISION,
        "int4": "int4",
        "grouped": "int4, group 8",
        "int8": "int8",
    }
    assert next(iter(beside.names)) == "full"
    assert beside.left_out == 2
    assert beside.full.run_id == "full"
    assert codecs.side_by_side(store.con, "old-full", WORKLOAD).full.run_id == "old-full", "the run itself, if older"
    assert codecs.side_by_side(store.con, "nothing", WORKLOAD).sides == ()


def test_a_run_stored_before_keys_could_be_wide_stands_apart_from_today_s_int4(store: Store) -> None:
    from tests.store.test_quality_rows import codec as measured
    from tests.store.test_quality_rows import document

    def stored(codec: KVQuantization, version: int, **changes: Any) -> str:
        engine = EngineConfig(model="random:tiny", device="cpu", kv_quantization=codec).model_dump(mode="json")
        engine["kv_quantization"] |= changes
        if version == 1:
            del engine["kv_quantization"]["wide_keys"]
        return json.dumps({"spec_version": version, "engine": engine})

    store.run("full", None)
    store.run("before", None, spec=stored(KVQuantization(codec="int4"), 1), model=json.dumps(PACKED))
    store.run("int8-before", None, spec=stored(KVQuantization(codec="int8"), 1), model=json.dumps(PACKED))
    store.run("today", None, spec=stored(KVQuantization(codec="int4"), 2), model=json.dumps(PACKED))
    (store.folder / "full").mkdir(parents=True)
    settings = KVQuantization(codec="int4").model_dump(mode="json")
    said = document(
        measured("int4", settings={name: value for name, value in settings.items() if name != "wide_keys"}),
        model="random:tiny",
    )
    (store.folder / "full" / "quality.json").write_text(json.dumps(said))
    QualityIndex(store.folder).sync(store.con)
    beside = codecs.side_by_side(store.con, "full", WORKLOAD)
    assert beside.names == {
        "full": FULL_PRECISION,
        "before": "int4, wide keys off, group 32",
        "today": "int4",
        "int8-before": "int8",
    }
    rows = {side.run_id: side.row() for side in beside.sides}
    assert rows["before"]["perplexity_ratio"] == pytest.approx(1.02)
    assert rows["today"]["perplexity_ratio"] is None, "measured with 4-bit keys"


def test_figures_are_those_of_the_rows_and_nothing_is_made_up(store: Store, tmp_path: Path) -> None:
    for run_id, codec in (("full", None), ("int4", KVQuantization(codec="int4"))):
        store.run(run_id, codec)
        ms = 5.0 if codec is None else 7.0
        store.steps(run_id, lambda batch, context, ms=ms: ms, preempted=codec is None)
    full, packed = (side.row() for side in codecs.side_by_side(store.con, "full", WORKLOAD).sides)
    assert (full["capacity_tokens"], packed["capacity_tokens"], packed["bits"]) == (160, 512, 5.0)
    assert (full["most_running"], full["preemptions"], packed["preemptions"]) == (5, 2, 0)
    assert (full["decode_step_ms"], packed["decode_step_ms"], packed["decode_requests"]) == (5.0, 7.0, 3.0)
    assert full["perplexity_ratio"] == 1.0
    assert packed["perplexity_ratio"] is None
    assert packed["kl"] is None
    assert packed["capacity_requests"] is None
    said = against_in_words(packed, full)
    assert (
        said
        == "int4: 3.20 times the capacity, 1.00 times the requests in flight, 1.40 times the output tokens/s, 1.40 times the decode step"
    )


def test_a_run_whose_process_was_stopped_says_so(store: Store) -> None:
    store.run("full", None)
    for run_id, codec, pause in (("int4", "int4", 30), ("int8", "int8", 0)):
        store.run(run_id, KVQuantization(codec=codec))
        moments = [n * 10**8 + (pause * 10**9 if n > 20 else 0) for n in range(40)]
        store.insert("devices", DeviceRow, run_id, [{"time_ns": moment, "device": "cpu"} for moment in moments])
    disturbed = {side.name: side.disturbed for side in codecs.side_by_side(store.con, "full", WORKLOAD).sides}
    assert disturbed == {FULL_PRECISION: (), "int8": (), "int4": ("the process stood still for 30 s",)}


def test_quality_counts_for_every_run_of_the_same_codec_and_model(store: Store) -> None:
    from tests.store.test_quality_rows import codec as measured
    from tests.store.test_quality_rows import document

    store.run("full", None)
    store.run("int4", KVQuantization(codec="int4"))
    store.run("int8", KVQuantization(codec="int8"))
    settings = KVQuantization(codec="int4").model_dump(mode="json")
    folder = store.folder / "full"
    folder.mkdir(parents=True)

    def write(**changes: Any) -> dict[str, Any]:
        said = document(measured("int4", settings=settings), model="random:tiny", **changes)
        (folder / "quality.json").write_text(json.dumps(said))
        QualityIndex(store.folder).sync(store.con)
        beside = codecs.side_by_side(store.con, "int4", WORKLOAD)
        return {side.name: side.row() for side in beside.sides}

    rows = write()
    assert rows["int4"]["perplexity_ratio"] == pytest.approx(1.02)
    assert (rows["int4"]["kl"], rows["int4"]["greedy_agreement"]) == (0.01, 0.5)
    assert rows["int8"]["perplexity_ratio"] is None
    for other in ({"seed": 1}, {"block_size": 32}, {"dtype": "float32"}):
        assert write(**other)["int4"]["perplexity_ratio"] is None, other
    older = document(measured("int4", settings=settings), model="random:tiny")
    del older["seed"], older["block_size"]  # as written before results said so: taken from the run's spec
    (folder / "quality.json").write_text(json.dumps(older))
    QualityIndex(store.folder).sync(store.con)
    rows = {side.name: side.row() for side in codecs.side_by_side(store.con, "int4", WORKLOAD).sides}
    assert rows["int4"]["perplexity_ratio"] == pytest.approx(1.02)


def test_steps_are_compared_at_the_same_size_and_context(store: Store) -> None:
    """The packed run's large batches are slow and have no counterpart; where both have steps it wins from 200 tokens on."""
    store.run("full", None)
    store.run("int4", KVQuantization(codec="int4"))
    store.steps("full", lambda batch, context: batch + context / 100)
    store.steps("int4", lambda batch, context: 1e3 if batch == 8 else batch + 1.01 + context / 200, batches=(2, 4, 8))
    cells = queries.cells_query(["full", "int4"]).table(store.con)
    ratios = step_ratios(cells, "int4", "full")
    assert ratios.ratio.max() < 1.5, "batches of eight are left out"
    assert ratios.ratio[0] > 1 > ratios.ratio[-1]
    assert 200 < ratios.crossover < 300
    told = Crossover("int4", ratios, None)
    assert "faster from 2" in told.words
    assert told.row()["faster, modelled"] == "not known"
    never = step_ratios(cells, "full", "full")
    assert never.crossover is None
    assert "never became faster (1.00 times as long)" in Crossover("int4", never, None).words
    nothing = step_ratios(cells, "int4", "elsewhere")
    assert len(nothing.ratio) == 0
    assert "nothing is compared" in Crossover("int4", nothing, None).words


EMPTY = StepRatios(*(np.array([]) for _ in range(4)))


def side(**changes: Any) -> codecs.Side:
    about = {
        "run_id": "r",
        "name": "int4",
        "codec": KVQuantization(codec="int4"),
        "capacity": None,
        "model": PACKED,
        "peaks": {"bytes_per_s": 1e9},
        "labels": (),
        "steps": {},
        "output_tokens_per_s": None,
        "quality": None,
        "block_size": 16,
    } | changes
    return codecs.Side(**about)


def test_the_model_sets_bytes_saved_against_unpacking_them() -> None:
    model = reading_model(side())
    assert model.saved == pytest.approx(220 / 1e9)
    assert model.unpack == pytest.approx((2e-5 - 5e-6) + 220e-9)
    assert model.fixed == pytest.approx((3e-3 - 2e-3) - (1e-3 - 0.5e-3))
    assert model.crossover is None, "on such a device never"
    assert "they never do on this device" in Crossover("int4", EMPTY, model).words
    np.testing.assert_allclose(model.step_ratio(np.array([10.0]), np.array([1000])), [(10 + 0.5 + 15) / 10])


def test_the_model_names_the_context_where_reading_less_begins_to_pay() -> None:
    fast = PACKED | {
        "kv_attention_s": {"context_tokens": [100, 200], "packed": [1.1e-3, 1.15e-3], "plain": [0.9e-3, 1.05e-3]}
    }
    model = reading_model(side(model=fast, peaks={"bytes_per_s": 1e8}))
    gain = model.saved - model.unpack
    assert gain == pytest.approx(1e-6)
    assert model.crossover == pytest.approx((1.05e-3 - 0.75e-3) / 1e-6)
    told = Crossover("int4", EMPTY, model)
    assert "modelled, from 300 tokens of context on" in told.words
    assert told.row()["spared per tok, modelled"] == "2.2 µs"
    ratio = model.step_ratio(np.array([5.0, 5.0]), np.array([299.0, 301.0]))
    assert ratio[0] > 1 > ratio[1]


@pytest.mark.parametrize("gone", ["kv_attention_s", "kv_full_bytes_per_token"])
def test_without_what_it_needs_there_is_no_model(gone: str) -> None:
    model = {key: value for key, value in PACKED.items() if key != gone}
    assert reading_model(side(model=model)) is None
    assert reading_model(side(peaks={})) is None
    assert "no model" in Crossover("int4", EMPTY, None).words


def test_the_pool_and_who_was_preempted_are_told_for_every_side(store: Store) -> None:
    for run_id, codec in (("full", None), ("int4", KVQuantization(codec="int4"))):
        store.run(run_id, codec)
        store.steps(run_id, lambda batch, context: 5.0, preempted=codec is None)
    name = "<b>x</b>"
    store.insert(
        "requests",
        RequestRow,
        "full",
        [
            {"request": 0, "request_id": "calm", "end_reason": "length"},
            {"request": 1, "request_id": name, "preemptions": 2, "end_ns": 5 * 10**9, "end_reason": "length"},
        ],
    )
    thrown = {"request": 1, "action": "preempted", "reason": "pool_full", "tokens": 30}
    store.insert("decisions", DecisionRow, "full", [thrown | {"time_ns": 2 * 10**9}, thrown | {"time_ns": 3 * 10**9}])
    store.insert("slices", SliceRow, "full", [{"request": 1, "kind": "decode", "itl_ns": 4 * 10**8}])
    sides = codecs.side_by_side(store.con, "full", WORKLOAD)
    (row,) = preempted_rows(queries.preempted_query(sides.runs).table(store.con), sides)
    assert row == {
        "codec": FULL_PRECISION,
        "request": name,
        "times": 2,
        "first, s": 2.0,
        "tokens computed again": 60,
        "longest gap, ms": 400.0,
        "end to end, ms": 5000.0,
        "run": "/?run=full&request=1",
    }
    table = queries.pools_query(sides.runs, points=5).table(store.con)
    assert sum(table["preempted"].to_pylist()) == 2, "no preemption is thinned away"
    figure = charts.pools(table, sides.names, 16, LIGHT)
    marks = [trace for trace in figure.data if trace.name == "preemption"]
    assert [int(sum(trace.customdata)) for trace in marks] == [2, 0]
    assert max(figure.data[0].y) == 160
    assert pool_in_words("a", {"fullest": 1.0, "preemptions": 1}) == "a: 100 % full at most, 1 preemption"


def test_charts_draw_codecs_the_same_way_and_say_when_they_are_empty() -> None:
    full = {"codec": FULL_PRECISION, "capacity_tokens": 100, "decode_step_ms": 10.0, "perplexity_ratio": 1.0}
    int4 = {"codec": "int4", "capacity_tokens": 320, "decode_step_ms": None, "perplexity_ratio": 1.02}
    figure = charts.against_full([int4], full, DARK)
    assert list(figure.data[0].x) == [3.2, 1.02]
    assert list(figure.data[0].y) == ["KV capacity", "perplexity"]
    ratios = StepRatios(*(np.array(values) for values in ([100.0], [1.4], [10.0], [7.0])))
    model = ReadingModel(220, 1e-6, 2e-6, 1e-3)
    crossings = [Crossover("int4", ratios, model), Crossover("fp8", ratios, None)]
    drawn = charts.crossover(crossings, {"int4": 0, "fp8": 1}, LIGHT)
    assert [trace.name for trace in drawn.data] == ["int4", "int4, modelled", "fp8", "modelled"]
    empty = charts.crossover([Crossover("int4", EMPTY, model)], {"int4": 0}, LIGHT)
    assert "No steps" in empty.layout.annotations[0].text
    nothing = pa.table({"run_id": pa.array([], pa.string()), "t": pa.array([], pa.float64())})
    assert "No iteration" in charts.pools(nothing, {"r": "int4"}, 16, LIGHT).layout.annotations[0].text


def test_the_same_requests_are_asked_of_another_codec() -> None:
    spec = small_spec("a", kv_quantization={"codec": "int4", "group": 8}, policy="orca")
    there = recoded(spec, "int8", "b", 5)
    assert there.engine.kv_quantization == KVQuantization(codec="int8")
    assert there.workload_hash == spec.workload_hash
    assert there.engine.policy == "orca"
    assert recoded(spec, FULL_PRECISION, "c", 5).engine.kv_quantization is None
    assert compare_command("memory-bound").startswith("servescope compare memory-bound --variant full:")
    assert "rm -rf" not in compare_command("x; rm -rf /")
    assert codec_name(KVQuantization(codec="kivi")) == "kivi 2-bit"
