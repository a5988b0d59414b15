"""From Parquet back to a spool: rows that come from elsewhere, bounded before they are rebuilt and checked one batch at a time.

Parquet says a lot in a few bytes: three million equal rows are a run length, a long text is stored once however often it occurs. What
a file may become is therefore bounded by its own size, from what it declares before anything is decoded, and again batch by batch.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.errors import StoreError
from store.parquet_pages import Pages, pages_of
from telemetry.arrow import choice_array, of_today, schema
from telemetry.folder import TELEMETRY_FOLDER
from telemetry.limits import MOST_REQUESTS
from telemetry.rows import ROW_TYPES, columns
from telemetry.run_facts import facts_of
from telemetry.spool import SpoolWriter, spool_path

ROWS_PER_BATCH = 65_536  # of a row group
MOST_ROWS = 100_000_000  # of one table
MOST_GROUPS = 10_000
MOST_GROWTH = 400  # a file may become so many times its size
ALWAYS_FITS = 64 << 20  # bytes that any file may become
MOST_TEXT_BYTES = 16 << 20  # of one value
LARGEST, LATEST_NS = 2**53, 2**62  # of whole numbers without a bound of their own, and of times
SIGNED = ("priority", "block_hash", "throttle_reasons")


def refused(reason: str, mend: str) -> StoreError:
    return StoreError("corrupt", f"The snapshot is refused: {reason}.", mend)


def rebuild_spool(run_dir: Path) -> None:
    """Turn the Parquet files of an unpacked run into its spool.

    Raises:
        StoreError: rows of other columns, too many, too large for the file, or with values that no run has.
        pa.ArrowException, and what else a Parquet reader raises: it cannot be read.
    """
    folder = run_dir / TELEMETRY_FOLDER
    folder.mkdir(exist_ok=True)
    for file in sorted(folder.glob("*.parquet")):
        _Rebuilding(run_dir, file).rebuild()
        file.unlink()


def plain_schema(row: str) -> pa.Schema:
    """A row type's schema with text in place of dictionaries."""
    return pa.schema(
        [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type, f.nullable) for f in schema(row)]
    )


class _Rebuilding:
    """One Parquet file on its way into the spool file of its row type."""

    def __init__(self, run_dir: Path, file: Path) -> None:
        self._run_dir, self._file, self._row = run_dir, file, file.stem
        self._most_bytes = max(ALWAYS_FITS, MOST_GROWTH * file.stat().st_size)
        self._width = sum(f.type.bit_width for f in schema(self._row) if not _is_long(f.type)) // 8

    def rebuild(self) -> None:
        with pq.ParquetFile(self._file) as parquet:
            self._check_declared(parquet)
            texts = [field.name for field in parquet.schema_arrow if pa.types.is_string(field.type)]
        with pq.ParquetFile(self._file, read_dictionary=texts) as parquet:
            writer = SpoolWriter(spool_path(self._run_dir, self._row), schema(self._row))
            try:
                left = self._most_bytes
                for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH):
                    left -= self._long_bytes(batch) + batch.num_rows * self._width
                    if left < 0:
                        raise self._too_large()
                    writer.write(self._checked(batch))
            finally:
                writer.close()

    def _check_declared(self, parquet: pq.ParquetFile) -> None:
        """Refuse what the file says of itself, before anything is decoded."""
        about = parquet.metadata
        if about.num_row_groups > MOST_GROUPS or about.num_rows > MOST_ROWS:
            raise refused(f"{self._run_dir.name} has {about.num_rows:,} {self._row} rows", "Do not trust this file.")
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        if min(sizes, default=0) < 0 or max(sizes, default=0) > ROWS_PER_BATCH or sum(sizes) != about.num_rows:
            raise refused(f"{self._run_dir.name} has {about.num_rows:,} {self._row} rows", "Do not trust this file.")
        if about.num_rows * self._width > self._most_bytes:
            raise self._too_large()
        declared = {field.name: field.type for field in parquet.schema_arrow}
        known = {f.name: f for f in plain_schema(self._row)}
        lacking = [f for name, f in known.items() if name not in declared and not f.nullable and _is_long(f.type)]
        same = all(name in known and known[name].type == kind for name, kind in declared.items())
        if lacking or not same or len(declared) != len(parquet.schema_arrow):
            raise refused(f"the {self._row} rows of {self._run_dir.name} have other columns", "Fetch it again.")
        pages = Pages(0, 0)
        for page in pages_of(self._file, about):
            pages += page
            if pages.bytes > self._most_bytes or 4 * pages.values > self._most_bytes:
                raise self._too_large()

    def _long_bytes(self, batch: pa.RecordBatch) -> int:
        """Bytes of the texts and lists of a batch once each row has its own copy; nothing is copied to find out."""
        total = 0
        for column in batch.columns:
            if pa.types.is_dictionary(column.type):
                lengths = pc.binary_length(column.dictionary)
                if (pc.max(lengths).as_py() or 0) > MOST_TEXT_BYTES:
                    raise self._too_large()
                total += pc.sum(pc.take(lengths, column.indices)).as_py() or 0
            elif pa.types.is_list(column.type):
                total += len(column.flatten()) * 4
        return total

    def _checked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the spool's own types. Raises StoreError for a value that no run has."""
        known = columns(ROW_TYPES[self._row])
        arrays = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if known[name].choices:
                arrays.append(self._as_choices(name, column))
                continue
            array = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
            self._check_range(name, array)
            arrays.append(array)
        whole = of_today(pa.RecordBatch.from_arrays(arrays, names=batch.schema.names), self._row)
        for field, array in zip(whole.schema, whole.columns, strict=True):
            if array.null_count and not field.nullable:
                raise refused(f"a {self._row} row lacks its {field.name}", "Fetch it again.")
        if self._row == "run":
            unreadable = [reason for event in whole.to_pylist() for reason in facts_of(event)[1]]
            if unreadable:
                raise refused(f"what {self._run_dir.name} says of itself: {unreadable[0]}", "Do not trust this file.")
        return whole

    def _as_choices(self, name: str, column: pa.Array) -> pa.Array:
        choices = choice_array(columns(ROW_TYPES[self._row])[name].choices)
        indices = pc.index_in(column.cast(pa.string()), choices).cast(pa.int8())
        if indices.null_count > column.null_count:
            raise refused(f"a {self._row} row has an unknown {name}", "Fetch it again.")
        return pa.DictionaryArray.from_arrays(indices, choices)

    def _check_range(self, name: str, array: pa.Array) -> None:
        """Requests are numbered as a run may have them, nothing that is counted is negative, nothing is infinite."""
        if pa.types.is_floating(array.type):
            if pc.any(pc.is_inf(array)).as_py():
                raise refused(f"a {self._row} row has an infinite {name}", "Do not trust this file.")
            return
        if not pa.types.is_integer(array.type) or name in SIGNED:
            return
        ends = pc.min_max(array).as_py()
        most = MOST_REQUESTS - 1 if name == "request" else LATEST_NS if name.endswith("_ns") else LARGEST
        for value in (ends["min"], ends["max"]):
            if value is not None and not 0 <= value <= most:
                raise refused(
                    f"a {self._row} row has {name} = {value:,}, which is not from 0 to {most:,}",
                    "Do not trust this file.",
                )

    def _too_large(self) -> StoreError:
        size = self._file.stat().st_size
        return refused(
            f"the {self._row} rows of {self._run_dir.name} would take more than {self._most_bytes >> 20:,} MiB, stored in "
            f"{size:,} bytes",
            "Do not trust this file.",
        )


def _is_long(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_list(kind)
