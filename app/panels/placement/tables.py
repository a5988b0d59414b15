"""The tables of disaggregation: lifetimes in parts, and the two halves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.panels.placement.words import PARTS
from app.words.table import Column, Table, words_of

Row = Mapping[str, Any]


def _number(title: str, key: str, form: str, scale: float = 1) -> Column:
    def text(row: Row) -> str:
        return "" if row[key] is None else f"{scale * row[key]:,{form}}"

    return Column(title, (key,), text)


LIFETIMES = (
    words_of("run", "run_id"),
    _number("requests", "requests", "d"),
    _number("handed over", "handed_over", "d"),
    *(_number(f"{name}, ms", f"{part}_ms", ".1f") for part, name in PARTS.items()),
)
"""Of a row of ``store.handovers.parts_query``."""

HALVES = (
    words_of("half", "half"),
    _number("steps", "steps", "d"),
    _number("time in steps, %", "busy_share", ".1f", 100),
    _number("tokens computed", "computed", "d"),
    _number("tokens emitted", "emitted", "d"),
)
"""Of a row of ``store.handovers.halves_query``."""


def lifetimes_table(rows: list[dict[str, Any]]) -> Table:
    return Table("Where requests' lifetimes went: means over requests that got a token", LIFETIMES, rows)


def halves_table(rows: list[dict[str, Any]]) -> Table:
    return Table("The two halves", HALVES, rows)
