"""The table of swaps in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.words.table import Column, Table, figure_of, words_of

Row = Mapping[str, Any]


def _scaled(title: str, key: str, scale: float, digits: str = ".3~g") -> Column:
    form = digits.replace("~", "")

    def text(row: Row) -> str:
        return "" if row[key] is None else f"{row[key] / scale:,{form}}"

    return Column(title, (key,), text)


SWAPS = (
    words_of("direction", "direction"),
    figure_of("swaps", "swaps", "localized"),
    figure_of("blocks", "blocks", "localized"),
    figure_of("blocks kept", "blocks_kept", "localized"),
    figure_of("copies per swap", "copies_per_swap", "%.1f"),
    _scaled("MB per swap", "bytes_per_swap", 1e6),
    _scaled("kB per copy", "bytes_per_copy", 1e3),
    _scaled("bandwidth, GB/s", "bytes_per_s", 1e9),
    _scaled("copying, ms", "copying_ms", 1.0),
    _scaled("waited, ms", "waited_ms", 1.0),
)
"""Of a row of ``store.swaps.totals_query``."""


def swaps_table(rows: list[dict[str, Any]]) -> Table:
    return Table("Swaps between the KV pool and host memory", SWAPS, rows)
