"""Tables of what was done with blocks of tiers, and of TTFT by tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.words.table import Column, Table

Row = Mapping[str, Any]

PLACES = {"nothing": "nothing found", "pool": "KV pool", "host": "host memory", "disk": "disk"}
ACTIONS = {
    "store": "kept",
    "load": "loaded",
    "decline": "computed again instead",
    "lose": "lost",
    "damaged": "damaged",
}


def _number(title: str, key: str, form: str, scale: float = 1) -> Column:
    def text(row: Row) -> str:
        return "" if row[key] is None else f"{scale * row[key]:,{form}}"

    return Column(title, (key,), text)


WORK = (
    Column("tier", ("tier",), lambda row: PLACES[row["tier"]]),
    Column("what", ("action",), lambda row: ACTIONS[row["action"]]),
    _number("number of blocks", "blocks", "d"),
    _number("tokens", "tokens", "d"),
    _number("MB", "bytes", ".1f", 1e-6),
    _number("time, ms", "ms", ".1f"),
    _number("GB/s", "gb_per_s", ".3g"),
    _number("load, predicted, ms", "load_ms", ".1f"),
    _number("recompute, predicted, ms", "recompute_ms", ".1f"),
)
"""Of a row of ``store.tiers.work_query``."""

TTFT = (
    Column("prefix found in", ("place",), lambda row: PLACES[row["place"]]),
    _number("requests", "requests", "d"),
    _number("median TTFT, ms", "ttft_ms", ".1f"),
    _number("mean prompt, tokens", "prompt_tokens", ".0f"),
    _number("mean found, tokens", "cached_tokens", ".0f"),
    _number("mean time to load, ms", "load_ms", ".1f"),
)
"""Of a row of ``store.tiers.ttft_query``."""


def work_table(rows: list[dict[str, Any]]) -> Table:
    return Table("What was done with prefix blocks in tiers below the KV pool", WORK, rows)


def ttft_table(rows: list[dict[str, Any]]) -> Table:
    return Table("TTFT by the lowest tier that a prefix was loaded from", TTFT, rows)
