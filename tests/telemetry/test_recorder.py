"""What is recorded is what is read back, and recording never stops the engine."""

from __future__ import annotations

import math
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_maker import iteration_values, record_step, request_values, spooled

from telemetry.recorder import LABEL_INCOMPLETE, Recorder
from telemetry.rows import ROW_TYPES, IterationRow, columns
from telemetry.spool import SpoolReader, spool_path
from tests.examples import examples

int32 = st.integers(0, 2**31 - 1)
int64 = st.integers(0, 2**63 - 1)


def values_of(row: str) -> st.SearchStrategy[dict[str, object]]:
    """Any values the columns of a row type can hold, nulls included."""
    kinds = {
        "int64": int64,
        "int32": int32,
        "float64": st.floats(allow_nan=False),
        "float32": st.floats(allow_nan=False, width=32),
        "string": st.text(st.characters(exclude_categories=())),
        "list<int32>": st.lists(int32),
        "list<float32>": st.lists(st.floats(allow_nan=False, width=32)),
    }
    fields = {}
    for name, c in columns(ROW_TYPES[row]).items():
        kind = st.sampled_from(c.choices) if c.choices else kinds[c.arrow_type]
        fields[name] = st.none() | kind if c.nullable else kind
    return st.fixed_dictionaries(fields)


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(values_of("iteration"), min_size=1, max_size=8),
    st.lists(values_of("request"), max_size=4),
    st.lists(values_of("device"), max_size=4),
)
def test_every_value_comes_back(iterations: list[dict], requests: list[dict], devices: list[dict]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Recorder(Path(folder)) as recorder:
            for values in iterations:
                recorder.iteration(**values)
            for values in requests:
                recorder.request(**values)
            for values in devices:
                recorder.device(**values)
        assert recorder.problem is None
        assert spooled(Path(folder), "iteration") == iterations
        for row, given_rows in (("request", requests), ("device", devices)):
            expected = [
                {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in r.items()}
                for r in given_rows
            ]
            assert spooled(Path(folder), row) == expected


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(
        st.tuples(int32, st.sampled_from(["prefill", "decode", "verify"]), st.none() | int64), min_size=1, max_size=40
    ),
    st.booleans(),
)
def test_lists_arrays_and_scalars_record_the_same_batch(batch: list[tuple], as_arrays: bool) -> None:
    requests, kinds, latencies = (list(column) for column in zip(*batch, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        with Recorder(Path(folder)) as recorder:
            recorder.slices(
                7,
                request=np.array(requests) if as_arrays else requests,
                kind=kinds,
                tokens=3,
                context_len=requests,
                itl_ns=np.array([-1 if v is None else v for v in latencies]) if as_arrays else latencies,
            )
        rows = spooled(Path(folder), "slice")
    assert [r["request"] for r in rows] == requests == [r["context_len"] for r in rows]
    assert [r["kind"] for r in rows] == kinds
    assert [r["itl_ns"] for r in rows] == latencies
    assert {(r["iteration"], r["tokens"], r["emitted"]) for r in rows} == {(7, 3, 0)}


def test_a_batch_larger_than_a_chunk_stays_in_order(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        for i in range(5):
            recorder.slices(i, request=np.arange(9000), kind=1, tokens=1, context_len=0)
    rows = SpoolReader(spool_path(tmp_path, "slice")).read()
    iterations = np.concatenate([item.batch.column("iteration").to_numpy() for item in rows])
    assert iterations.tolist() == sorted(iterations.tolist())
    assert len(iterations) == 45_000


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("full", {"iteration", "slice", "decision", "block", "request", "run", "device"}),
        ("iterations", {"iteration", "request", "run", "device"}),
        ("off", {"request", "run", "device"}),
    ],
)
def test_each_level_records_its_rows_and_no_others(tmp_path: Path, level: str, written: set[str]) -> None:
    with Recorder(tmp_path, level) as recorder:
        record_step(recorder, 0)
        recorder.request(**request_values(0))
        recorder.device(time_ns=0, device="cpu")
        recorder.run("end", "finished")
    assert {path.stem for path in (tmp_path / "telemetry").iterdir()} == written
    assert recorder.problem is None


def test_a_wrong_row_is_refused_by_name(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        with pytest.raises(TypeError, match="no column 'colour'"):
            recorder.iteration(**iteration_values(0), colour=1)
        with pytest.raises(TypeError, match="'end_ns' is never null"):
            recorder.iteration(**{k: v for k, v in iteration_values(0).items() if k != "end_ns"})
        with pytest.raises(TypeError, match=r"iteration\.running cannot hold"):
            recorder.iteration(**iteration_values(0, running=2**40))
        with pytest.raises(ValueError, match=r"slice\.tokens: 2 values for 3 rows"):
            recorder.slices(0, request=[1, 2, 3], kind=1, tokens=[1, 2], context_len=0)
        with pytest.raises(TypeError, match="'end_reason' is never null"):
            recorder.request(**request_values(0, end_reason=None))
        recorder.iteration(**iteration_values(1))
    assert [r["iteration"] for r in spooled(tmp_path, "iteration")] == [1]


def test_rows_reach_the_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        record_step(recorder, 0)
        deadline = time.monotonic() + 30
        while not spooled(tmp_path, "iteration"):
            assert time.monotonic() < deadline, "nothing was written without a flush"
            time.sleep(0.01)


def test_when_the_disk_cannot_keep_up_detail_stops_and_says_so(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, max_pending_bytes=300_000, drain_interval_s=3600)
    with recorder._writer.lock:  # a disk that takes nothing for now
        for i in range(400):
            recorder.slices(i, request=np.arange(256), kind=1, tokens=1, context_len=0)
            recorder.iteration(**iteration_values(i))
    assert not recorder.detail
    recorder.run("end", "finished")
    recorder.close()
    assert "the disk did not keep up" in (recorder.problem or "")
    kept = sum(item.batch.num_rows for item in SpoolReader(spool_path(tmp_path, "slice")).read())
    assert kept + recorder.lost["slice"] == 400 * 256
    assert len(spooled(tmp_path, "iteration")) == 400
    assert LABEL_INCOMPLETE in spooled(tmp_path, "run")[0]["labels"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_rows_but_never_the_run(small_disk: Path) -> None:
    filler = small_disk / "filler"
    recorder = Recorder(small_disk)
    recorder.run("start", "running")
    recorder.flush()
    filler.write_bytes(b"x" * (1 << 20))
    for i in range(300):
        recorder.slices(i, request=np.arange(256), kind=1, tokens=1, context_len=0)
        recorder.iteration(**iteration_values(i))
        if i % 50 == 0:
            recorder.flush()
    recorder.flush()
    assert "No space left on device" in (recorder.problem or "")
    assert not recorder.detail
    recorder.slices(300, request=[1, 2], kind=1, tokens=1, context_len=0)
    filler.unlink()  # space comes back: what waited is written, nothing in the file is torn
    recorder.run("end", "finished")
    recorder.close()
    assert [r["iteration"] for r in spooled(small_disk, "iteration")] == list(range(300))
    assert [r["event"] for r in spooled(small_disk, "run")] == ["start", "end"]
    kept = sum(item.batch.num_rows for item in SpoolReader(spool_path(small_disk, "slice")).read())
    assert kept + recorder.lost["slice"] == 300 * 256 + 2


def test_a_disk_that_stays_full_ends_in_a_reason_not_an_exception(small_disk: Path) -> None:
    recorder = Recorder(small_disk)
    (small_disk / "filler").write_bytes(b"x" * ((2 << 20) - 16384))
    recorder.iteration(**iteration_values(0))
    for i in range(100):
        recorder.slices(i, request=np.arange(256), kind=1, tokens=1, context_len=0)
    recorder.close()
    assert "No space left on device" in (recorder.problem or "")
    assert recorder.lost["slice"] > 0


def test_the_clock_ties_rows_to_the_wall(tmp_path: Path) -> None:
    before = time.time_ns()
    with Recorder(tmp_path) as recorder:
        recorder.run("start", "running")
    (row,) = spooled(tmp_path, "run")
    assert before <= row["unix_ns"] <= time.time_ns() + 10**9
    assert row["unix_ns"] - row["time_ns"] == recorder.clock.origin_unix_ns


def test_close_is_idempotent_and_ends_the_stream(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    record_step(recorder, 0)
    recorder.close()
    recorder.close()
    reader = SpoolReader(spool_path(tmp_path, "iteration"))
    list(reader.read())
    assert reader.ended


def test_float_nulls_are_nulls_not_numbers(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.decision(0, "admitted", "scheduled", value=math.nan)
        recorder.device(time_ns=1, device="cpu", power=math.nan, memory_used=-1)
    assert spooled(tmp_path, "decision")[0]["value"] is None
    (row,) = spooled(tmp_path, "device")
    assert row["power"] is None
    assert row["memory_used"] is None


def test_a_spool_has_one_writer_in_its_life(tmp_path: Path) -> None:
    with Recorder(tmp_path) as first:
        record_step(first, 0)
    second = Recorder(tmp_path)
    record_step(second, 1)
    second.close()
    assert "could not be written" in (second.problem or "")
    assert [r["iteration"] for r in spooled(tmp_path, "iteration")] == [0]


def test_every_iteration_column_is_covered_by_the_sample() -> None:
    assert iteration_values(0).keys() == columns(IterationRow).keys()
