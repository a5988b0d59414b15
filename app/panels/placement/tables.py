"""The tables of disaggregation: lifetimes in parts, and the two halves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.panels.placement.words import PARTS
from app.words.table import Table, scaled_of, words_of

Row = Mapping[str, Any]


LIFETIMES = (
    words_of("run", "run_id"),
    scaled_of("requests", "requests", "d"),
    scaled_of("handed over", "handed_over", "d"),
    *(scaled_of(f"{name}, ms", f"{part}_ms", ".1f") for part, name in PARTS.items()),
)
"""Of a row of ``store.handovers.parts_query``."""

HALVES = (
    words_of("half", "half"),
    scaled_of("steps", "steps", "d"),
    scaled_of("time in steps, %", "busy_share", ".1f", 100),
    scaled_of("threads in a step", "threads", ".2f"),
    scaled_of("tokens computed", "computed", "d"),
    scaled_of("tokens emitted", "emitted", "d"),
)
"""Of a row of ``store.handovers.halves_query``."""


def lifetimes_table(rows: list[dict[str, Any]]) -> Table:
    return Table("Where requests' lifetimes went: means over requests that got a token", LIFETIMES, rows)


def halves_table(rows: list[dict[str, Any]]) -> Table:
    return Table("The two halves", HALVES, rows)
