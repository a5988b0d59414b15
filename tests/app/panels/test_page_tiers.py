"""The page on tiers: what it says of what was found where."""

from __future__ import annotations

import pyarrow as pa

from app.panels.kv_tiers import charts
from app.panels.kv_tiers.page import (
    codec_in_words,
    levels_in_words,
    stack_in_words,
    ttft_in_words,
    waits_in_words,
    work_in_words,
)
from app.panels.kv_tiers.tables import loss_table, stack_table, ttft_table, waits_table, work_table
from app.theme import LIGHT

WORK = {
    "tier": "host", "action": "load", "times": 2, "blocks": 6, "tokens": 96, "bytes": 4_000_000, "stored_bytes": 400_000, "ms": 2.0, "waited_ms": 1.5, "codec_ms": 0.5, "gb_per_s": 2.0,
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
    assert rows[1] == ["host memory", "loaded", "6", "96", "4.0", "0.4", "2.0", "1.5", "0.5", "2", "3.0", "40.0"]
    assert rows[2][:2] == ["disk", "computed again instead"]
    assert rows[2][10] == ""


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


def test_the_parts_of_ttft_are_stacked_and_told() -> None:
    parts = {"wait_ms": 1.0, "store_ms": 2.0, "transfer_ms": 3.0, "decode_ms": 4.0, "compute_ms": 5.0}
    row = {"place": "disk", "requests": 2, "ttft_ms": 15.0} | parts
    assert (
        stack_in_words([row]) == "from disk: transfer 3.0 ms, decoding 4.0 ms, keeping others 2.0 ms, computing 5.0 ms"
    )
    assert stack_in_words([row | {"place": "pool"}]) == "Nothing was loaded from a tier."
    assert stack_table([row]).cells() == [["disk", "2", "1.0", "2.0", "3.0", "4.0", "5.0", "15.0"]]
    drawn = charts.stack(table := pa.Table.from_pylist([row]), LIGHT)
    assert drawn.layout.barmode == "stack"
    assert [(bar.x[0], bar.y[0]) for bar in drawn.data] == [("disk", value) for value in parts.values()]
    assert not charts.stack(table.slice(0, 0), LIGHT).data


def test_what_copies_took_is_split_into_waited_for_and_hidden() -> None:
    load = {"tier": "disk", "action": "load", "ms": 8.0, "waited_ms": 2.0, "hidden_ms": 6.0, "request_ms": 9.0}
    store = {"tier": "host", "action": "store", "ms": 2.0, "waited_ms": 2.0, "hidden_ms": 0.0, "request_ms": None}
    said = "Copies took 10.0 ms; 60% of it was hidden behind steps. A request waited 9.0 ms for a load from disk on average."
    assert waits_in_words([store, load]) == said
    assert waits_in_words([]) == "Nothing was copied."
    assert waits_table([store, load]).cells() == [
        ["pool to host", "2.0", "0.0", ""],
        ["disk to pool", "2.0", "6.0", "9.0"],
    ]
    drawn = charts.waits(table := pa.Table.from_pylist([store, load]), LIGHT)
    assert [(bar.name, list(bar.y)) for bar in drawn.data] == [
        ("engine waited", [2.0, 2.0]),
        ("hidden behind steps", [0.0, 6.0]),
    ]
    assert not drawn.layout.xaxis.title.text, "copies stand there, and no time"
    assert not charts.waits(table.slice(0, 0), LIGHT).data


def test_levels_are_drawn_over_the_rate_and_counted() -> None:
    row = {"t": 1.0, "request": 3, "level": "text", "blocks": 4, "gb_per_s": 0.5, "left_ms": -20.0}
    fine = row | {"level": "delta-fine", "blocks": 2, "gb_per_s": 50.0}
    assert levels_in_words([row, fine, fine]) == "Blocks by level: fine 4, computed again 4."
    drawn = charts.levels(table := pa.Table.from_pylist([row, fine]), LIGHT)
    assert [(dots.name, list(dots.y)) for dots in drawn.data] == [("fine", [50.0]), ("computed again", [0.5])]
    assert not charts.levels(table.slice(0, 0), LIGHT).data


def test_the_loss_of_a_codec_is_drawn_by_layer_and_told_with_its_ratio() -> None:
    lost = [{"layer": n, "key_error": 0.1 * (n + 1), "value_error": 0.2 * (n + 1)} for n in range(2)]
    said = codec_in_words([WORK | {"tier": "disk", "action": "store"}], lost)
    assert "take 1/10.0 of their bytes" in said
    assert "keys by 10.0% in the first layer and 20.0% in the last, values by 20.0% and 40.0%" in said
    assert codec_in_words([WORK], []) == "No block went through a codec."
    assert loss_table(lost).cells()[1] == ["1", "20.00", "40.00"]
    drawn = charts.loss(pa.Table.from_pylist(lost), LIGHT).data
    assert [(line.name, list(line.y)) for line in drawn] == [("keys", [10.0, 20.0]), ("values", [20.0, 40.0])]
