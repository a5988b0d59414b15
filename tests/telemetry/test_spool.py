"""The spool survives a writer that dies anywhere, and damage never passes for data."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from row_maker import record_step

from telemetry import arrow
from telemetry.framing import END_OF_STREAM
from telemetry.recorder import Recorder
from telemetry.rows import ROW_TYPES, columns
from telemetry.spool import SpoolCorrupt, SpoolReader, spool_path

BATCHES = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A closed slice spool of ``BATCHES`` batches of 4 rows."""
    folder = tmp_path_factory.mktemp("whole")
    with Recorder(folder) as recorder:
        for i in range(BATCHES):
            record_step(recorder, i)
            recorder.flush()
    return spool_path(folder, "slice").read_bytes()


@pytest.fixture(scope="module")
def ends(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    path = tmp_path_factory.mktemp("ends") / "slice.arrow"
    path.write_bytes(whole)
    return [item.offset for item in SpoolReader(path).read()]


def read_out(reader: SpoolReader, seen: list[int]) -> None:
    """Read to the end of a file nobody writes any more, noting each batch's number."""
    for item in reader.read():
        seen.append(item.sequence)
    reader.finish()


def test_any_arrow_reader_can_open_a_spool(whole: bytes) -> None:
    table = pa.ipc.open_stream(whole).read_all()
    assert table.num_rows == 4 * BATCHES
    assert set(table.column("kind").to_pylist()) == {"decode"}


@pytest.mark.parametrize("row", ROW_TYPES)
def test_every_column_of_every_row_type_has_an_arrow_type(row: str) -> None:
    schema = arrow.schema(row)
    assert schema.names == list(columns(ROW_TYPES[row]))
    for name, column in columns(ROW_TYPES[row]).items():
        assert schema.field(name).nullable == column.nullable
        assert schema.field(name).metadata[b"unit"].decode() == column.unit


def test_a_tail_grows_batch_by_batch_and_nothing_twice(whole: bytes, ends: list[int], tmp_path: Path) -> None:
    path = tmp_path / "slice.arrow"
    reader = SpoolReader(path)
    assert list(reader.read()) == []  # not even a file yet
    seen = []
    for cut in range(0, len(whole) + 1, 97):
        path.write_bytes(whole[:cut])
        seen += [item.sequence for item in reader.read()]
        assert seen == list(range(sum(end <= cut for end in ends)))
    path.write_bytes(whole)
    seen += [item.sequence for item in reader.read()]
    assert seen == list(range(BATCHES))
    assert reader.ended
    assert reader.finish() == 0


def test_a_cut_anywhere_is_a_torn_tail(whole: bytes, ends: list[int], tmp_path: Path) -> None:
    path = tmp_path / "slice.arrow"
    for cut in range(0, len(whole) - len(END_OF_STREAM) + 1, 61):
        path.write_bytes(whole[:cut])
        reader = SpoolReader(path)
        assert len(list(reader.read())) == sum(end <= cut for end in ends)
        torn = reader.finish()
        assert torn == cut - max((end for end in ends if end <= cut), default=0)


def test_zeros_behind_the_last_write_are_a_torn_tail(whole: bytes, ends: list[int], tmp_path: Path) -> None:
    path = tmp_path / "slice.arrow"
    path.write_bytes(whole[: ends[2]] + bytes(4096))
    reader = SpoolReader(path)
    assert len(list(reader.read())) == 3
    assert reader.finish() == 4096


@pytest.mark.parametrize("flip", [0x01, 0x03, 0x80, 0xFF])
def test_a_changed_byte_is_never_read_as_data(whole: bytes, ends: list[int], tmp_path: Path, flip: int) -> None:
    path = tmp_path / "slice.arrow"
    short = whole[: ends[2]] + END_OF_STREAM
    for at in range(flip % 11, ends[2], 11):
        path.write_bytes(short[:at] + bytes([short[at] ^ flip]) + short[at + 1 :])
        intact = sum(end <= at for end in ends)
        reader, seen = SpoolReader(path), []
        with pytest.raises(SpoolCorrupt) as caught:
            read_out(reader, seen)
        assert seen == list(range(intact))
        assert caught.value.sequence == intact
        assert str(path) in str(caught.value)


def test_a_missing_batch_is_noticed(whole: bytes, ends: list[int], tmp_path: Path) -> None:
    path = tmp_path / "slice.arrow"
    path.write_bytes(whole[: ends[1]] + whole[ends[2] :])
    reader = SpoolReader(path)
    with pytest.raises(SpoolCorrupt, match="its number is 3") as caught:
        list(reader.read())
    assert caught.value.sequence == 2
    assert caught.value.offset == ends[1]


def test_reading_resumes_after_any_batch(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "slice.arrow"
    path.write_bytes(whole)
    all_of_it = list(SpoolReader(path).read())
    for k, item in enumerate(all_of_it):
        rest = list(SpoolReader(path, after=item.sequence, offset=item.offset).read())
        assert [r.sequence for r in rest] == [r.sequence for r in all_of_it[k + 1 :]]
        assert all(a.batch.equals(b.batch) for a, b in zip(rest, all_of_it[k + 1 :], strict=True))


def test_a_batch_larger_than_a_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder(tmp_path) as recorder:
        for i in range(3):
            recorder.slices(i, request=list(range(5000)), kind=1, tokens=1, context_len=0)
            recorder.flush()
    monkeypatch.setattr("telemetry.spool.READ_BYTES", 1024)
    sizes = [item.batch.num_rows for item in SpoolReader(spool_path(tmp_path, "slice")).read()]
    assert sizes == [5000, 5000, 5000]


def test_a_file_that_is_no_spool_is_corrupt_at_once(tmp_path: Path) -> None:
    path = tmp_path / "slice.arrow"
    path.write_bytes(b"PK\x03\x04 this is something else")
    with pytest.raises(SpoolCorrupt, match="byte 0, batch 0"):
        list(SpoolReader(path).read())
