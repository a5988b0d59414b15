"""The table of swaps in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.words.table import Table, figure_of, scaled_of, words_of

Row = Mapping[str, Any]


SWAPS = (
    words_of("direction", "direction"),
    figure_of("swaps", "swaps", "localized"),
    figure_of("blocks", "blocks", "localized"),
    figure_of("blocks kept", "blocks_kept", "localized"),
    figure_of("copies per swap", "copies_per_swap", "%.1f"),
    scaled_of("MB per swap", "bytes_per_swap", ".3g", 1e-6),
    scaled_of("kB per copy", "bytes_per_copy", ".3g", 1e-3),
    scaled_of("bandwidth, GB/s", "bytes_per_s", ".3g", 1e-9),
    scaled_of("copying, ms", "copying_ms", ".3g"),
    scaled_of("waited, ms", "waited_ms", ".3g"),
)
"""Of a row of ``store.swaps.totals_query``."""


def swaps_table(rows: list[dict[str, Any]]) -> Table:
    return Table("Swaps between the KV pool and host memory", SWAPS, rows)
