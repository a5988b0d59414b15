"""Charts of prefix sharing: what they draw of tables with known answers."""

from __future__ import annotations

import pyarrow as pa
import pytest

from app.panels.prefix_sharing import played
from app.panels.prefix_sharing.charts import EFFECTS, prefix_effects, prefix_memory, prefix_tokens, prefix_tree, spans
from app.theme import DARK, LIGHT

COLUMNS = ("hash", "parent", "position", "requests", "holders", "state")
TREE = [
    (1, None, 0, 4, 2, "in use"),
    (2, 1, 1, 4, 2, "in use"),  # like the one before: one span of two blocks
    (3, 2, 2, 3, 2, "in use"),
    (4, 2, 2, 1, 0, "cached"),
    (5, 4, 3, 1, 0, "evicted"),
    (9, None, 0, 1, 0, "evicted"),
]


def table(rows: list[tuple]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows])


def test_blocks_of_one_fate_become_one_span() -> None:
    by_hash = spans(table(TREE))
    assert {s.name: (s.parent, s.first, s.blocks, s.state) for s in by_hash.values()} == {
        1: (None, 0, 2, "in use"),
        3: (1, 2, 1, "in use"),
        4: (1, 2, 1, "cached"),
        5: (4, 3, 1, "evicted"),
        9: (None, 0, 1, "evicted"),
    }


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_the_tree_is_wide_where_many_shared_and_coloured_by_state(palette) -> None:
    (icicle,) = prefix_tree(table(TREE), palette, 16).data
    drawn = dict(zip(icicle.ids, zip(icicle.parents, icicle.values, icicle.marker.colors, strict=True), strict=True))
    assert drawn["root"][1] == 5
    assert drawn["1"] == ("root", 4, palette.kv_used)
    assert drawn["4"] == ("1", 1, palette.kv_cached)
    assert drawn["5"] == ("4", 1, palette.ghost)
    assert icicle.labels[list(icicle.ids).index("1")] == "32 tokens"
    children: dict[str, int] = {}
    for parent, value, _ in drawn.values():
        children[parent] = children.get(parent, 0) + value
    assert all(total <= drawn[parent][1] for parent, total in children.items() if parent)


def test_the_three_bars_are_the_three_shares() -> None:
    shares = pa.table({"prefill_share": [0.5], "memory_share": [0.25], "read_share": pa.array([None], pa.float64())})
    (bars,) = prefix_effects(shares, LIGHT).data
    assert [words.replace("<br>", " ") for words in bars.x] == list(EFFECTS.values()) == list(bars.hovertext)
    assert list(bars.y) == [50, 25, 0]


def test_lines_over_time() -> None:
    series = pa.table({"t": [0.0, 1.0], "found_tokens": [0, 9], "computed_tokens": [5, 6], "blocks_spared": [0, 2]})
    assert [list(line.y) for line in prefix_tokens(series, LIGHT).data] == [[0, 9], [5, 6]]
    assert [list(line.y) for line in prefix_memory(series, LIGHT).data] == [[0, 2]]


def test_nothing_recorded_is_said() -> None:
    nothing = pa.table({"t": pa.array([], pa.float64())})
    for figure in (prefix_tokens(nothing, LIGHT), prefix_memory(nothing, LIGHT), prefix_tree(table([]), LIGHT, 16)):
        assert figure.layout.annotations[0].text


def test_the_played_tree_lies_side_by_side_and_knows_every_block() -> None:
    """Two questions after one instruction of two blocks; the state of a block does not part what has no branch."""
    rows = [
        {"hash": 1, "parent": None, "position": 0, "requests": 3, "holders": 2, "state": "in use", "request": 0},
        {"hash": 2, "parent": 1, "position": 1, "requests": 3, "holders": 0, "state": "cached", "request": 0},
        {"hash": 3, "parent": 2, "position": 2, "requests": 2, "holders": 0, "state": "evicted", "request": 0},
        {"hash": 4, "parent": 2, "position": 2, "requests": 1, "holders": 1, "state": "in use", "request": 2},
    ]
    shown, of_block = played.stretches(pa.Table.from_pylist(rows))
    table = played.laid_out(shown, 16, lambda request, first, last: f"{request}: {first} to {last}")
    assert table.schema.field("blocks").type == pa.int32()
    boxes = {tuple(row[name] for name in ("first", "until", "top", "bottom")) for row in table.to_pylist()}
    assert boxes == {(0, 32, 0, 3), (32, 48, 0, 2), (32, 48, 2, 3)}
    assert of_block[1] == of_block[2]
    assert sorted(row["text"] for row in table.to_pylist()) == ["0: 0 to 32", "0: 32 to 48", "2: 32 to 48"]
    changes = pa.table({"iteration": [0, 1, 2], "hash": [2, 9, 4], "before": [0, 0, 0], "after": [1, 1, 1]})
    told = played.events(changes, of_block)
    assert told["span"].to_pylist() == [of_block[2], of_block[4]], "what is not drawn has no events"
    assert told["iteration"].to_pylist() == [0, 2]
