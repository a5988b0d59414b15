"""Results as CSV files; what strangers wrote is never run as a formula by the spreadsheet that opens them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from app.words.table import Table


def write_table(table: Table, path: Path) -> None:
    """A result table with every key of its columns, values as they are."""
    keys = [key for column in table.columns for key in column.keys]
    write_rows(keys, ([row.get(key) for key in keys] for row in table.rows), path)


def write_rows(head: Sequence[str], rows: Iterable[Iterable[Any]], path: Path) -> None:
    """A head and rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([safe_cell(value) for value in row] for row in rows)


def safe_cell(value: Any) -> Any:
    """The value; text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
