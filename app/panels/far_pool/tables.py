"""The table of what a far pool was used for."""

from __future__ import annotations

from typing import Any

from app.words.table import Table, scaled_of, words_of

FAR = (
    words_of("run", "run_id"),
    scaled_of("most far blocks", "most_far_blocks", "d"),
    scaled_of("requests that borrowed", "borrowers", "d"),
    scaled_of("blocks moved", "moved_blocks", "d"),
    scaled_of("moved, MB", "moved_mb", ".1f"),
    scaled_of("time to move, ms", "moving_ms", ".1f"),
    scaled_of("queries and results, MB", "sent_mb", ".1f"),
    scaled_of("far share of keys, %", "far_share", ".1f", 100),
    scaled_of("far attention per step, ms", "far_ms", ".2f"),
    scaled_of("far attention, % of step time", "compute_share", ".1f", 100),
    scaled_of("emulated link, % of step time", "link_share", ".1f", 100),
)
"""Of a row of ``store.lending.summary_query``."""


def far_table(rows: list[dict[str, Any]]) -> Table:
    return Table("Far KV pool", FAR, rows)
