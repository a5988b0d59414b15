"""What comes from elsewhere is read through models and bounded before it is rebuilt; what is wrong is refused by its name."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_maker import record_run, set_status, spooled

from store.errors import StoreError
from store.parquet_pages import Pages, pages_of
from store.snapshot import export_snapshot
from tests.store.test_quality_rows import codec, document
from tests.store.test_snapshot import Lab, rewrite

Members = dict[str, bytes]
RUN = "runs/r1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    here = Lab(tmp_path / "here")
    run_dir = record_run(here.runs, "r1", steps=20)
    set_status(run_dir, "finished", summary={"iterations": 20})
    (run_dir / "notes.json").write_text(json.dumps({"name": "mine"}))
    (run_dir / "quality.json").write_text(json.dumps(document(codec("a"))))
    out = tmp_path / "out.servescope"
    export_snapshot(out, [run_dir])
    return out


@pytest.fixture
def there(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "there")


def refused(there: Lab, file: Path, change: Callable[[Members], None]) -> str:
    """What an import says of a changed snapshot; nothing of it is left."""
    rewrite(file, change, honest=True)
    before = there.content()
    with pytest.raises(StoreError) as caught:
        there.read(file)
    assert there.content() == before
    return caught.value.message


def put(member: str, **changes: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        members[f"{RUN}/{member}"] = json.dumps(json.loads(members[f"{RUN}/{member}"]) | changes).encode()

    return change


def text(name: str, content: bytes) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        members[f"{RUN}/{name}"] = content

    return change


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (put("status.json", labels=5), "status.json cannot be read: labels"),
        (put("status.json", summary="x"), "status.json cannot be read: summary"),
        (put("status.json", started_unix_ns="abc"), "status.json cannot be read: started_unix_ns"),
        (put("status.json", summary={"requests": {"total": 2**31 - 1}}), "summary.requests.total"),
        (text("status.json", b'{"state": "finished", "labels": ["\\ud800"]}'), "status.json cannot be read"),
        (text("notes.json", b'{"name": ' + b"[" * 100_000), "notes.json cannot be read"),
        (text("notes.json", b'{"name": "\\udfff"}'), "notes.json cannot be read"),
        (put("notes.json", name="x" * 121), "notes.json cannot be read: name"),
        (put("quality.json", tokens=1e30), "quality.json cannot be read: tokens"),
        (put("quality.json", labels="x"), "quality.json cannot be read: labels"),
    ],
)
def test_a_file_that_its_model_refuses_is_named_with_the_place(
    there: Lab, file: Path, change: Callable[[Members], None], place: str
) -> None:
    assert place in refused(there, file, change)


def rows(members: Members, row: str) -> pa.Table:
    return pq.read_table(io.BytesIO(members[f"{RUN}/telemetry/{row}.parquet"]))


def store(members: Members, row: str, table: pa.Table, **options: Any) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"row_group_size": 65_536, "compression": "zstd", "store_schema": False} | options)
    members[f"{RUN}/telemetry/{row}.parquet"] = sink.getvalue()


def with_column(row: str, name: str, value: Any) -> Callable[[Members], None]:
    """The same rows with one value in all of a column."""

    def change(members: Members) -> None:
        table = rows(members, row)
        at = table.schema.get_field_index(name)
        column = pa.array([value] * table.num_rows, table.schema.field(at).type)
        store(members, row, table.set_column(at, table.schema.field(at), column))

    return change


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        ("request", "request", 2**31 - 1),
        ("request", "request", -1),
        ("slice", "request", 20_000),
        ("iteration", "end_ns", 2**63 - 1),
        ("iteration", "blocks_total", -5),
        ("iteration", "flops", float("inf")),
    ],
)
def test_a_number_that_no_run_has_is_refused(there: Lab, file: Path, row: str, column: str, value: Any) -> None:
    assert f"a {row} row has" in refused(there, file, with_column(row, column, value))


@pytest.mark.parametrize(
    ("column", "value"), [("peaks", '{"flops_per_s": "fast"}'), ("labels", "5"), ("summary", "[" * 100_000)]
)
def test_a_text_inside_the_rows_is_read_through_its_model(there: Lab, file: Path, column: str, value: str) -> None:
    assert f"run.{column} cannot be read" in refused(there, file, with_column("run", column, value))


def many_rows(members: Members) -> None:
    store(members, "iteration", rows(members, "iteration").take(pa.array(np.zeros(1_500_000, np.int64))))


def long_texts(members: Members) -> None:
    table = rows(members, "request").take(pa.array(np.zeros(60_000, np.int64)))
    at = table.schema.get_field_index("text")
    long = pa.DictionaryArray.from_arrays(np.zeros(60_000, np.int32), pa.array(["x" * 100_000]))
    store(members, "request", table.set_column(at, "text", long), compression="none")


def test_equal_rows_stored_once_do_not_become_gigabytes(there: Lab, file: Path) -> None:
    assert "would take more than" in refused(there, file, many_rows)


def test_a_text_stored_once_does_not_become_gigabytes(there: Lab, file: Path) -> None:
    assert "would take more than 64 MiB" in refused(there, file, long_texts)


def test_what_pages_become_is_read_from_their_own_headers(tmp_path: Path) -> None:
    """Megabytes of equal values in a few thousand bytes: what the pages become is known before any is decoded."""
    path = tmp_path / "x.parquet"
    table = pa.table({"a": pa.array(np.zeros(200_000, np.int64)), "b": [[1, 2]] * 200_000})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, store_schema=False)
    total = Pages(0, 0)
    for page in pages_of(path, pq.ParquetFile(path).metadata):
        total += page
    assert total.values == 200_000 + 400_000
    assert 1_600_000 < total.bytes < 6_000_000
    assert path.stat().st_size < 100_000


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 5, 8, 12])
def test_a_page_header_that_no_writer_makes_is_refused_or_read_within_bounds(tmp_path: Path, at: int) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path, compression="none", use_dictionary=False)
    metadata = pq.ParquetFile(path).metadata
    first = metadata.row_group(0).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[first + at] ^= 0xFF
    path.write_bytes(data)
    with contextlib.suppress(ValueError, struct.error):
        assert sum(page.bytes for page in pages_of(path, metadata)) >= 0


def test_rows_of_an_earlier_version_come_back_with_what_was_not_counted_then(there: Lab, file: Path) -> None:
    def change(members: Members) -> None:
        store(members, "iteration", rows(members, "iteration").drop_columns(["draft_ns", "kv_bytes_spared"]))

    rewrite(file, change, honest=True)
    there.read(file)
    assert [row["draft_ns"] for row in spooled(there.runs / "r1", "iteration")] == [0] * 20
