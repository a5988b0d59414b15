"""How large the pages of a Parquet file become, from their headers alone.

A Parquet file states sizes in its footer, but a reader allocates what each page's own header says. So the headers are walked before
anything is decoded. They are Thrift structs in the compact protocol (Apache Parquet format, ``PageHeader``)::

    1 type | 2 uncompressed size | 3 compressed size | 4 CRC | 5 data page | 7 dictionary page | 8 data page v2
                                                              `-------- field 1 of each: number of values
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

MOST_HEADER_BYTES = 1 << 16
MOST_PAGES = 1_000_000
VALUES_IN = (5, 7, 8)
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12


@dataclass(frozen=True)
class Pages:
    """Bytes and values of pages, decoded."""

    bytes: int
    values: int

    def __add__(self, other: Pages) -> Pages:
        return Pages(self.bytes + other.bytes, self.values + other.values)


def pages_of(path: Path, metadata: pq.FileMetaData) -> Iterator[Pages]:
    """Every page of the file. Raises ValueError where the headers are not what a Parquet writer makes."""
    size, count = path.stat().st_size, 0
    with path.open("rb") as file:
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                column = metadata.row_group(group).column(index)
                first = column.data_page_offset
                if column.has_dictionary_page and column.dictionary_page_offset is not None:
                    first = min(first, column.dictionary_page_offset) if column.dictionary_page_offset else first
                at, end = first, first + column.total_compressed_size
                if not 0 < at <= end <= size:
                    raise ValueError("a column lies outside the file")
                while at < end:
                    file.seek(at)
                    header, used = _header(file.read(min(MOST_HEADER_BYTES, end - at)))
                    count += 1
                    if count > MOST_PAGES:
                        raise ValueError("it has too many pages")
                    at += used + header[3]
                    yield Pages(header[2], max((header[part][1] for part in VALUES_IN if part in header), default=0))


def _header(data: bytes) -> tuple[dict[int, Any], int]:
    """A page header's fields by number, and how many bytes it takes. Raises ValueError."""
    reader = _Compact(data)
    header = reader.struct()
    sizes = [header.get(2), header.get(3)]
    values = [header[part].get(1) for part in VALUES_IN if isinstance(header.get(part), dict)]
    if not all(type(n) is int and n >= 0 for n in (*sizes, *values)):
        raise ValueError("a page's header lacks its sizes")
    return header, reader.at


class _Compact:
    """Thrift's compact protocol, as far as page headers use it. Anything else, or out of order, is a ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > 4:
            raise ValueError("a page's header is nested too deeply")
        fields: dict[int, Any] = {}
        last = 0
        while kind := self._byte():
            if not kind >> 4:
                raise ValueError("a page's header is out of order")
            last += kind >> 4
            fields[last] = self._value(kind & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == BYTE:
            return self._byte()
        if kind in (I16, I32, I64):
            number = self._varint()
            return (number >> 1) ^ -(number & 1)
        if kind == DOUBLE:
            return self._take(8)
        if kind == BINARY:
            return self._take(self._varint())
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise ValueError("a page's header has a field of an unknown kind")

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("a page's header has a number that does not end")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        taken = self.data[self.at : self.at + count]
        if len(taken) < count:
            raise ValueError("a page's header is cut off")
        self.at += count
        return taken
