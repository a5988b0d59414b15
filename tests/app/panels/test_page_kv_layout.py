"""The page on the KV pool's layout: what it says of memory held and not used, and of pages."""

from __future__ import annotations

import pyarrow as pa

from app.panels.kv_layout import charts
from app.panels.kv_layout.page import pages_in_words, totals_in_words
from app.panels.kv_layout.tables import memory_table
from app.theme import LIGHT

TOTAL = {
    "run_id": "r", "used_share": 0.75, "internal_share": 0.05, "reserved_share": 0.2, "pool_mb": 100.0, "held_mb": 40.0, "used_mb": 30.0,
    "resident_mb": 38.0, "mapped_mb": 40.0, "released_mb": 12.5, "mapping_ms": 1.25,
}  # fmt: skip
PARTS = {f"{part}_mb": [10.0, 20.0] for part in charts.NAMES}


def drawn(figure) -> list[str]:
    return [trace.name for trace in figure.data]


def test_the_words_and_the_table_say_the_same() -> None:
    said = totals_in_words(TOTAL)
    assert "75.0 % held computed tokens" in said
    assert "5.0 % was the unused rest" in said
    assert "20.0 % was reserved" in said
    [row] = memory_table([TOTAL]).cells()
    assert row == ["r", "75.0", "5.0", "20.0", "40.0", "30.0", "38.0", "40.0", "12.5", "1.2"]
    assert totals_in_words(None).startswith("Nothing was recorded")
    assert pages_in_words(TOTAL) == "40.0 MB mapped, 12.5 MB given back. At most 38.0 MB were resident."
    assert pages_in_words(TOTAL | {"mapped_mb": 0.0}).startswith("Nothing is mapped")


def test_what_is_resident_is_drawn_where_it_was_read() -> None:
    table = pa.table(
        {"t": [1.0, 2.0], **PARTS, "resident_mb": [None, 30.0], "mapped_mb": [4.0, 0.0], "released_mb": [0.0, 3.0]}
    )
    assert drawn(charts.parts(table, LIGHT)) == [*charts.NAMES.values(), "resident"]
    assert list(charts.parts(table, LIGHT).data[-1].x) == [2.0]
    assert drawn(charts.pages(table, LIGHT)) == ["mapped", "given back"]
    assert list(charts.pages(table, LIGHT).data[1].y) == [0.0, -3.0], "below the line"
    paged = table.set_column(6, "resident_mb", pa.array([None, None], pa.float64()))
    assert "resident" not in drawn(charts.parts(paged, LIGHT))
