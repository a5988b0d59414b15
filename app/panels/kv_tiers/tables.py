"""Tables of what was done with blocks of tiers, and of TTFT by tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.words.table import Column, Table, scaled_of

Row = Mapping[str, Any]

PLACES = {"nothing": "nothing found", "pool": "KV pool", "host": "host memory", "disk": "disk"}
PARTS = {
    "wait": "waiting",
    "store": "keeping others",
    "transfer": "transfer",
    "decode": "decoding",
    "compute": "computing",
}
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
    scaled_of("stored, MB", "stored_bytes", ".1f", 1e-6),
    scaled_of("time, ms", "ms", ".1f"),
    scaled_of("of it engine waited, ms", "waited_ms", ".1f"),
    scaled_of("of it the codec, ms", "codec_ms", ".1f"),
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


STACK = (
    Column("prefix found in", ("place",), lambda row: PLACES[row["place"]]),
    scaled_of("requests", "requests", "d"),
    *(scaled_of(f"{name}, ms", f"{part}_ms", ".1f") for part, name in PARTS.items()),
    scaled_of("mean TTFT, ms", "ttft_ms", ".1f"),
)
"""Of a row of ``store.tiers.stack_query``."""

WAYS = {
    ("host", "store"): "pool to host",
    ("disk", "store"): "host to disk",
    ("host", "load"): "host to pool",
    ("disk", "load"): "disk to pool",
}
WAITS = (
    Column("copies", ("tier", "action"), lambda row: WAYS[row["tier"], row["action"]]),
    scaled_of("engine waited, ms", "waited_ms", ".1f"),
    scaled_of("hidden behind steps, ms", "hidden_ms", ".1f"),
    scaled_of("request waited, mean, ms", "request_ms", ".1f"),
)
"""Of a row of ``store.tiers.waits_query``."""

LEVELS = {"delta-fine": "fine", "delta-medium": "medium", "delta-coarse": "coarse", "text": "computed again"}
"""Levels in ``store.tiers.levels_query``, finest first."""

LOSS = (
    scaled_of("layer", "layer", "d"),
    scaled_of("error of keys, %", "key_error", ".2f", 100),
    scaled_of("error of values, %", "value_error", ".2f", 100),
)
"""Of a row of ``store.tiers.loss_query``."""


def stack_table(rows: list[dict[str, Any]]) -> Table:
    return Table("TTFT in parts by the lowest tier that a prefix was loaded from, means", STACK, rows)


def waits_table(rows: list[dict[str, Any]]) -> Table:
    return Table("Copies between the KV pool and its tiers: waited for, and hidden behind steps", WAITS, rows)


def loss_table(rows: list[dict[str, Any]]) -> Table:
    return Table("What the tier codec lost by layer", LOSS, rows)


def work_table(rows: list[dict[str, Any]]) -> Table:
    return Table("What was done with prefix blocks in tiers below the KV pool", WORK, rows)


def ttft_table(rows: list[dict[str, Any]]) -> Table:
    return Table("TTFT by the lowest tier that a prefix was loaded from", TTFT, rows)
