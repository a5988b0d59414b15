"""The table of what the KV pool's memory was used for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.words.table import Column, Table, words_of

Row = Mapping[str, Any]


def _scaled(title: str, key: str, scale: float, form: str) -> Column:
    def text(row: Row) -> str:
        return "" if row[key] is None else f"{scale * row[key]:,{form}}"

    return Column(title, (key,), text)


MEMORY = (
    words_of("run", "run_id"),
    _scaled("used, %", "used_share", 100, ".1f"),
    _scaled("internal fragmentation, %", "internal_share", 100, ".1f"),
    _scaled("reserved, %", "reserved_share", 100, ".1f"),
    _scaled("most held, MB", "held_mb", 1, ".1f"),
    _scaled("most used, MB", "used_mb", 1, ".1f"),
    _scaled("most resident, MB", "resident_mb", 1, ".1f"),
    _scaled("mapped, MB", "mapped_mb", 1, ".1f"),
    _scaled("given back, MB", "released_mb", 1, ".1f"),
    _scaled("mapping, ms", "mapping_ms", 1, ".1f"),
)
"""Of a row of ``store.layouts.totals_query``; shares are of the memory that requests held."""


def memory_table(rows: list[dict[str, Any]]) -> Table:
    return Table("What the KV pool's memory was used for; shares of what requests held, over time", MEMORY, rows)
