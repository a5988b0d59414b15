"""Tables of what became of ended turns' blocks, and of programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.panels.time_to_live.words import ACTIONS, PARTS, REASONS
from app.words.table import Column, Table, scaled_of, words_of

Row = Mapping[str, Any]

PINS = (
    Column("what", ("action",), lambda row: ACTIONS[row["action"]]),
    Column("why", ("reason",), lambda row: REASONS.get(row["reason"] or "", "")),
    scaled_of("turns", "times", "d"),
    scaled_of("number of blocks", "blocks", "d"),
    scaled_of("mean time to live, s", "ttl_s", ".2f"),
    scaled_of("mean time pinned, s", "held_s", ".2f"),
    scaled_of("chance of being back, %", "chance", ".0f", 100),
    scaled_of("recompute, predicted, s", "recompute_s", ".2f"),
    scaled_of("wait, predicted, s", "wait_s", ".2f"),
    scaled_of("cost of memory, s", "cost_s", ".2f"),
)
"""Of a row of ``store.programs.pins_query``."""

PROGRAMS = (
    words_of("run", "run_id"),
    scaled_of("programs", "programs", "d"),
    scaled_of("done", "done", "d"),
    scaled_of("mean completion time, s", "completion_s", ".2f"),
    scaled_of("median completion time, s", "median_s", ".2f"),
    *(scaled_of(f"{name}, s", f"{part}_s", ".2f") for part, name in PARTS.items()),
    scaled_of("tokens computed again", "recomputed_tokens", ".0f"),
)
"""Of a row of ``store.programs.summary_query``."""


def pins_table(rows: list[dict[str, Any]]) -> Table:
    return Table("What became of the KV blocks of turns that ended", PINS, rows)


def programs_table(rows: list[dict[str, Any]]) -> Table:
    return Table("Programs: means over those that were done", PROGRAMS, rows)
