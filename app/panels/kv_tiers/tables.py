"""Tables of what was done with blocks of tiers, and of TTFT by tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.words.table import Column, Table, scaled_of

Row = Mapping[str, Any]

PLACES = {"nothing": "nothing found", "pool": "KV pool", "host": "host memory", "disk": "disk"}
ACTIONS = {
    "store": "kept",
    "load": "loaded",
    "decline": "computed again instead",
    "lose": "lost",
    "damaged": "damaged",
}


WORK = (
    Column("tier", ("tier",), lambda row: PLACES[row["tier"]]),
    Column("what", ("action",), lambda row: ACTIONS[row["action"]]),
    scaled_of("number of blocks", "blocks", "d"),
    scaled_of("tokens", "tokens", "d"),
    scaled_of("MB", "bytes", ".1f", 1e-6),
    scaled_of("time, ms", "ms", ".1f"),
    scaled_of("GB/s", "gb_per_s", ".3g"),
    scaled_of("load, predicted, ms", "load_ms", ".1f"),
    scaled_of("recompute, predicted, ms", "recompute_ms", ".1f"),
)
"""Of a row of ``store.tiers.work_query``."""

TTFT = (
    Column("prefix found in", ("place",), lambda row: PLACES[row["place"]]),
    scaled_of("requests", "requests", "d"),
    scaled_of("median TTFT, ms", "ttft_ms", ".1f"),
    scaled_of("mean prompt, tokens", "prompt_tokens", ".0f"),
    scaled_of("mean found, tokens", "cached_tokens", ".0f"),
    scaled_of("mean time to load, ms", "load_ms", ".1f"),
)
"""Of a row of ``store.tiers.ttft_query``."""


def work_table(rows: list[dict[str, Any]]) -> Table:
    return Table("What was done with prefix blocks in tiers below the KV pool", WORK, rows)


def ttft_table(rows: list[dict[str, Any]]) -> Table:
    return Table("TTFT by the lowest tier that a prefix was loaded from", TTFT, rows)
