"""The page on tiers: what it says of what was found where."""

from __future__ import annotations

import pyarrow as pa

from app.panels.kv_tiers import charts
from app.panels.kv_tiers.page import ttft_in_words, work_in_words
from app.panels.kv_tiers.tables import ttft_table, work_table
from app.theme import LIGHT

WORK = {
    "tier": "host", "action": "load", "times": 2, "blocks": 6, "tokens": 96, "bytes": 4_000_000, "ms": 2.0, "gb_per_s": 2.0,
    "load_ms": 3.0, "recompute_ms": 40.0,
}  # fmt: skip
PLACE = {
    "place": "disk", "requests": 3, "ttft_ms": 12.5, "prompt_tokens": 60.0, "cached_tokens": 40.0, "load_ms": 2.0,
}  # fmt: skip


def test_work_and_table_say_the_same() -> None:
    work = [
        WORK | {"action": "store"},
        WORK,
        WORK | {"tier": "disk", "action": "decline", "tokens": 32, "load_ms": None},
    ]
    said = work_in_words(work)
    assert "96 prompt tokens were loaded from host memory and 0 from disk" in said
    assert "32 were found and computed again" in said
    assert "lost" not in said
    assert "evicted no prefix block" in work_in_words([])
    rows = work_table(work).cells()
    assert rows[1] == ["host memory", "loaded", "6", "96", "4.0", "2.0", "2", "3.0", "40.0"]
    assert rows[2][:2] == ["disk", "computed again instead"]
    assert rows[2][7] == ""


def test_ttft_is_told_and_drawn_by_tier() -> None:
    assert ttft_in_words([PLACE]) == "loaded from disk: median TTFT 12.5 ms"
    assert ttft_table([PLACE]).cells() == [["disk", "3", "12.5", "60", "40", "2.0"]]
    table = pa.Table.from_pylist(
        [
            {"request": n, "place": place, "ttft_ms": 1.0 * n, "cached_tokens": n, "prompt_tokens": 9}
            for n, place in enumerate(["host", "nothing", "host"])
        ]
    )
    assert [(t.name, list(t.y)) for t in charts.ttft(table, LIGHT).data] == [
        ("nothing found", [1.0]),
        ("host memory", [0.0, 2.0]),
    ]
    assert not charts.ttft(table.slice(0, 0), LIGHT).data


def test_hits_are_stacked_by_tier() -> None:
    row = {"t": 1.0, "pool_tokens": 5, "host_tokens": 3, "disk_tokens": 0, "declined_tokens": 1}
    assert [t.name for t in charts.hits(pa.Table.from_pylist([row]), LIGHT).data] == [
        "KV pool",
        "host memory",
        "disk",
        "declined",
    ]
    nothing = dict.fromkeys(row, 0) | {"t": 1.0}
    assert not charts.hits(pa.Table.from_pylist([nothing]), LIGHT).data
