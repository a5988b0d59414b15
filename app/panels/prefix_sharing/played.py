"""The prefix tree below an iteration: its stretches, and what became of their blocks, for the picture that plays
them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app.components.pictures import Behind, tree_picture
from app.components.when_seen import when_seen
from app.lab import get_lab
from app.panels.panel import FinishedRun
from app.panels.prefix_sharing.charts import Span, most_used, spans
from app.panels.prefix_sharing.words import CHARTS
from app.panels.prompt_text import TextOf, texts_of_run
from app.words.plain import counted
from store import iteration_window, prefix

HEIGHT = 420  # pixels, about
TEXT_SHOWN = 160  # characters
LAID_OUT = pa.schema(
    [
        *((name, pa.float64()) for name in ("first", "until", "top", "bottom")),
        ("blocks", pa.int32()),  # a browser has no 64-bit whole numbers to count with
        ("requests", pa.int32()),
        ("text", pa.string()),
    ]
)


def played_tree(run: FinishedRun, iteration: int) -> None:
    """Draw it once a reader comes near."""

    def draw() -> None:
        run_id, size = run.facts.run_id, run.facts.spec.engine.block_size
        nodes, changes = _recorded(run_id)
        if not nodes.num_rows:
            return
        with run.lab.database.read() as con:
            text = texts_of_run(replace(run, con=con))
        shown, of_block = stretches(nodes)
        words = CHARTS["prefix-tree-played"]
        st.markdown(f"**{words.title}**", help=words.explained)
        tree_picture(
            {
                "run": run_id,
                "iteration": iteration,
                "spans": laid_out(shown, size, text),
                "events": events(changes, of_block),
            },
            Behind(
                words,
                changes,
                prefix.tree_changes_query(run_id),
                "prefix-tree-played",
                f"{counted(nodes.num_rows, 'prefix block')}.",
            ),
            key=f"tree-{run_id}",
        )

    when_seen(draw, key=f"tree-{run.facts.run_id}", height=HEIGHT)


@lru_cache(maxsize=4)
def _recorded(run_id: str) -> tuple[pa.Table, pa.Table]:
    """The tree at the end of the run, and every change until then. Kept: the run is over, and the page asks again with
    every stretch of iterations.
    """
    with get_lab().database.read() as con:
        known = iteration_window.bounds(con, run_id)
        nodes = prefix.tree(con, run_id, known.last if known else 0)
        return nodes, prefix.tree_changes_query(run_id).table(con)


def stretches(nodes: pa.Table) -> tuple[list[Span], dict[int, int]]:
    """The tree's stretches without branches, whatever becomes of their blocks; and by a block's hash the number of its
    stretch. ``nodes``: of ``store.prefix.tree``.
    """
    rows = nodes.num_rows
    same = nodes.set_column(nodes.schema.get_field_index("state"), "state", pa.array(["any"] * rows))
    same = same.set_column(same.schema.get_field_index("holders"), "holders", pa.array([0] * rows))
    tree = spans(same)
    shown = most_used(tree)
    number = {span.name: at for at, span in enumerate(shown)}
    owner: dict[int, int] = {}  # by hash, the span's name
    for row in sorted(nodes.select(["hash", "parent", "position"]).to_pylist(), key=lambda row: row["position"]):
        owner[row["hash"]] = row["hash"] if row["hash"] in tree else owner[row["parent"]]
    return shown, {block: number[name] for block, name in owner.items() if name in number}


def laid_out(shown: list[Span], block_size: int, text: TextOf) -> pa.Table:
    """Where each stretch lies: ``first`` to ``until`` in tokens, ``top`` to ``bottom`` in requests; ``blocks``,
    ``requests``, ``text``.
    """
    children: dict[int | None, list[Span]] = {}
    for span in shown:
        children.setdefault(span.parent, []).append(span)
    tops: dict[int, float] = {}
    waiting: list[tuple[int | None, float]] = [(None, 0.0)]
    while waiting:
        parent, at = waiting.pop()
        for span in sorted(children.get(parent, ()), key=lambda span: -span.requests):
            tops[span.name] = at
            waiting.append((span.name, at))
            at += span.requests
    rows = [
        {
            "first": float(span.first * block_size),
            "until": float((span.first + span.blocks) * block_size),
            "top": tops[span.name],
            "bottom": tops[span.name] + span.requests,
            "blocks": span.blocks,
            "requests": span.requests,
            "text": text(span.request, span.first * block_size, (span.first + span.blocks) * block_size)[:TEXT_SHOWN],
        }
        for span in shown
    ]
    return pa.Table.from_pylist(rows, schema=LAID_OUT)


def events(changes: pa.Table, of_block: dict[int, int]) -> pa.Table:
    """The changes of the blocks that are drawn: ``iteration``, ``span``, ``before``, ``after`` as 32-bit integers."""
    span = [of_block.get(block, -1) for block in changes["hash"].to_pylist()]
    table = pa.table(
        {
            "iteration": changes["iteration"].cast(pa.int32()),
            "span": pa.array(span, pa.int32()),
            "before": changes["before"].cast(pa.int32()),
            "after": changes["after"].cast(pa.int32()),
        }
    )
    return table.filter(pc.greater_equal(table["span"], 0))
