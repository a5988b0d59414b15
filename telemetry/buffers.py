"""Rows waiting in memory for the writer thread.

``NumericBuffer`` serves the hot path: preallocated chunks, filled in place. Rows that come one at a time lie row by
row, so that one call of ``struct`` stores a row; rows that come many at a time lie column by column, so that one
numpy assignment stores a column. ``ObjectBuffer`` serves the few rows that carry text. Both hand what they hold to
the writer as Arrow record batches and keep their locks for moments only: a full chunk changes hands, it is never
copied under the lock.
"""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from telemetry import arrow
from telemetry.rows import NULL_INT, ROW_TYPES, Column, columns

CHUNK_ROWS = 8192
SPARE_CHUNKS = 4
NOMINAL_ROW_BYTES = 1024
_PACK = {"int64": "q", "int32": "i", "int8": "b", "float64": "d", "float32": "f", "bool": "?"}


class _Chunk:
    """One numpy array per column (views of ``table`` where rows lie together), ``rows`` of them filled."""

    __slots__ = ("arrays", "capacity", "rows", "table")

    def __init__(self, dtype: np.dtype, capacity: int, by_row: bool) -> None:
        # full, not empty: its pages are touched here and not while an iteration is being recorded
        names = dtype.names or ()
        self.table = np.full(capacity if by_row else 0, 0, dtype)
        self.arrays = [self.table[name] if by_row else np.full(capacity, 0, dtype[name]) for name in names]
        self.capacity = capacity
        self.rows = 0


class NumericBuffer:
    """Numeric and enumerated columns of one row type, appended by one thread and drained by another.

    ``by_row`` chooses the layout and with it the way in: :meth:`append` with it, :meth:`extend` without.
    """

    def __init__(self, row: str, *, by_row: bool, chunk_rows: int = CHUNK_ROWS) -> None:
        self.row = row
        self._columns = columns(ROW_TYPES[row])
        self.names = tuple(self._columns)
        specs = self._columns.values()
        self._dtype = np.dtype([(name, arrow.NUMPY_TYPES[c.arrow_type]) for name, c in self._columns.items()])
        self._pack = [_PACK[c.arrow_type] for c in specs]
        self._pack_row = struct.Struct("=" + "".join(self._pack)).pack_into
        self._codes = [{choice: i for i, choice in enumerate(c.choices)} for c in specs]
        self._nulls = [_null_of(c) if c.nullable else None for c in specs]
        self._enumerated = [k for k, c in enumerate(specs) if c.choices]
        self._nullable = [k for k, c in enumerate(specs) if c.nullable]
        self._arrow = [
            (arrow.arrow_type(c), c.nullable, arrow.choice_array(c.choices) if c.choices else None) for c in specs
        ]
        self.row_bytes = self._dtype.itemsize
        self._by_row = by_row
        self._chunk_rows = chunk_rows
        self._lock = threading.Lock()
        self._chunk = self._new_chunk(chunk_rows)
        self._full: list[_Chunk] = []
        self._spare = [self._new_chunk(chunk_rows)]
        self._appended = 0
        self._recycled = 0

    @property
    def pending_bytes(self) -> int:
        """Memory of the rows appended and not given back yet."""
        return (self._appended - self._recycled) * self.row_bytes

    def append(self, values: Sequence[Any]) -> bool:
        """One row, values in column order (``None`` where the column may be null). True when a chunk filled up."""
        row = list(values)
        for k in self._enumerated:
            if type(row[k]) is str:
                row[k] = self._codes[k][row[k]]
        for k in self._nullable:
            if row[k] is None:
                row[k] = self._nulls[k]
        with self._lock:
            sealed = self._reserve(1)
            chunk = self._chunk
            try:
                self._pack_row(chunk.table.data, chunk.rows * self.row_bytes, *row)
            except struct.error as error:
                raise self._misfit(row) from error
            chunk.rows += 1
            self._appended += 1
        return sealed

    def extend(self, rows: int, values: Sequence[Any]) -> bool:
        """``rows`` rows at once; each value is an array or list of that length, or a scalar for all of them."""
        with self._lock:
            sealed = self._reserve(rows)
            chunk = self._chunk
            start, stop = chunk.rows, chunk.rows + rows
            for k, value in enumerate(values):
                array = chunk.arrays[k]
                if type(value) is list or type(value) is tuple:
                    self._store_sequence(k, array, start, rows, value)
                elif value is None:
                    array[start:stop] = self._null(k)
                else:
                    array[start:stop] = self._codes[k][value] if type(value) is str else value
            chunk.rows = stop
            self._appended += rows
        return sealed

    def drain(self) -> list[_Chunk]:
        """Every chunk with rows, oldest first; give each back with :meth:`recycle` once it is written."""
        with self._lock:
            chunks = self._full
            self._full = []
            if self._chunk.rows:
                chunks.append(self._chunk)
                self._chunk = self._fresh(self._chunk_rows)
        return chunks

    def recycle(self, chunk: _Chunk) -> None:
        self._recycled += chunk.rows
        chunk.rows = 0
        if chunk.capacity == self._chunk_rows and len(self._spare) < SPARE_CHUNKS:
            self._spare.append(chunk)

    def batch(self, chunk: _Chunk) -> pa.RecordBatch:
        """The chunk as a record batch that shares its memory (nulls and choices resolved)."""
        rows = chunk.rows
        arrays = []
        for array, (kind, nullable, choices) in zip(chunk.arrays, self._arrow, strict=True):
            data = np.ascontiguousarray(array[:rows])
            valid = None
            if nullable:
                held = ~np.isnan(data) if data.dtype.kind == "f" else data != NULL_INT
                if not held.all():
                    valid = pa.py_buffer(np.packbits(held, bitorder="little"))
            # from_buffers, because pa.array() looks at every value's type and takes several times as long
            if choices is None:
                arrays.append(pa.Array.from_buffers(kind, rows, [valid, pa.py_buffer(data)]))
            else:
                if valid is not None:
                    data = np.where(held, data, 0).astype(data.dtype)
                if data.view(np.uint8).max() >= len(choices):  # a negative code is a large one here
                    raise ValueError(f"a choice beyond {choices[-1]}")
                arrays.append(pa.DictionaryArray.from_buffers(kind, rows, [valid, pa.py_buffer(data)], choices))
        return pa.RecordBatch.from_arrays(arrays, schema=arrow.schema(self.row))

    def _reserve(self, rows: int) -> bool:
        if self._chunk.rows + rows <= self._chunk.capacity:
            return False
        sealed = bool(self._chunk.rows)
        if sealed:
            self._full.append(self._chunk)
        self._chunk = self._fresh(max(rows, self._chunk_rows))
        return sealed

    def _fresh(self, capacity: int) -> _Chunk:
        if capacity == self._chunk_rows and self._spare:
            return self._spare.pop()
        return self._new_chunk(capacity)

    def _new_chunk(self, capacity: int) -> _Chunk:
        return _Chunk(self._dtype, capacity, self._by_row)

    def _null(self, k: int) -> float:
        null = self._nulls[k]
        if null is None:
            raise TypeError(f"{self.row}.{self.names[k]} is never null; give it a value")
        return null

    def _misfit(self, row: Sequence[Any]) -> Exception:
        """What to say about a row that its columns cannot hold."""
        for name, value, pack in zip(self.names, row, self._pack, strict=True):
            try:
                struct.pack("=" + pack, value)
            except struct.error:
                return TypeError(f"{self.row}.{name} cannot hold {value!r}")
        return TypeError(f"{self.row} row: {len(row)} values for {len(self.names)} columns")

    def _store_sequence(self, k: int, array: np.ndarray, start: int, rows: int, value: Sequence[Any]) -> None:
        if len(value) != rows:
            raise ValueError(f"{self.row}.{self.names[k]}: {len(value)} values for {rows} rows")
        try:  # twice as fast as numpy's own conversion of a list
            struct.pack_into(f"{rows}{self._pack[k]}", array.data, start * array.itemsize, *value)
        except struct.error:
            codes = self._codes[k]
            array[start : start + rows] = [
                self._null(k) if v is None else codes[v] if type(v) is str else v for v in value
            ]


def _null_of(column: Column) -> float:
    return math.nan if column.arrow_type.startswith("float") else NULL_INT


class ObjectBuffer:
    """Rows with text (requests, devices, the run): few of them, kept as mappings until they are written."""

    def __init__(self, row: str) -> None:
        self.row = row
        self._columns = columns(ROW_TYPES[row])
        self.names = tuple(self._columns)
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
        self._appended = 0
        self._recycled = 0

    @property
    def pending_bytes(self) -> int:
        """A nominal size of the rows appended and not given back yet."""
        return (self._appended - self._recycled) * NOMINAL_ROW_BYTES

    def append(self, values: Mapping[str, Any]) -> None:
        """One row; missing columns must be nullable."""
        unknown = values.keys() - self._columns.keys()
        if unknown:
            raise TypeError(f"{self.row} row: no column {sorted(unknown)[0]!r}; it has {', '.join(self.names)}")
        row = {name: self._value(name, values.get(name)) for name in self.names}
        with self._lock:
            self._rows.append(row)
            self._appended += 1

    def drain(self) -> list[list[dict[str, Any]]]:
        with self._lock:
            rows, self._rows = self._rows, []
        return [rows] if rows else []

    def recycle(self, rows: Sequence[Any]) -> None:
        self._recycled += len(rows)

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        arrays = []
        for name, column in self._columns.items():
            values = [row[name] for row in rows]
            if column.choices:
                codes = pa.array(values, pa.int8())
                arrays.append(pa.DictionaryArray.from_arrays(codes, arrow.choice_array(column.choices)))
            else:
                arrays.append(pa.array(values, arrow.arrow_type(column)))
        return pa.RecordBatch.from_arrays(arrays, schema=arrow.schema(self.row))

    def _value(self, name: str, value: Any) -> Any:
        """What Arrow will take without complaint, checked where the caller still stands."""
        column = self._columns[name]
        if value is None:
            if not column.nullable:
                raise TypeError(f"{self.row} row: column {name!r} is never null; give it a value")
            return None
        if column.choices:
            return column.choices.index(value) if isinstance(value, str) else range(len(column.choices))[int(value)]
        if column.arrow_type == "string":
            if not isinstance(value, str):
                value = json.dumps(value, ensure_ascii=False)
            return value.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate has no UTF-8
        if column.arrow_type.startswith("int"):
            value = int(value)
            return None if column.nullable and value == NULL_INT else value
        if column.arrow_type.startswith("float"):
            value = float(value)
            return None if column.nullable and value != value else value
        if column.arrow_type.startswith("list<"):
            return np.asarray(value, arrow.LIST_TYPES[column.arrow_type])
        return value
