"""Charts of prefix sharing: what they draw of tables with known answers."""

from __future__ import annotations

import pyarrow as pa
import pytest

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
