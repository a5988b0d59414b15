"""What prefix sharing gave: tokens over time, memory over time, three effects, and the tree of prefixes."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go

from app.charts.frame import Table, column, faded, new_figure, rows, say_nothing_here, step_line
from app.theme import Palette, ink_on

EFFECTS = {
    "prefill_share": "prefill not done again",
    "memory_share": "KV memory not held twice",
    "read_share": "memory traffic not needed",
}
MOST_SPANS = 1500
TEXT_SHOWN, TEXT_WIDTH = 240, 60  # characters of a span's text in its hover; per line


def prefix_tokens(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``found_tokens``, ``computed_tokens`` so far."""
    figure = new_figure(palette, y_title="prompt so far, tokens")
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    t = column(table, "t")
    hits = step_line(
        t, column(table, "found_tokens"), "hits", palette.kv_used, unit="tokens", fill=faded(palette.kv_used, 0.3)
    )
    figure.add_trace(hits)
    figure.add_trace(step_line(t, column(table, "computed_tokens"), "computed", palette.prefill, unit="tokens"))
    figure.update_layout(hovermode="x unified")
    return figure


def prefix_memory(table: Table, palette: Palette) -> go.Figure:
    """``table``: ``t`` (s), ``blocks_spared``."""
    figure = new_figure(palette, y_title="not held twice, blocks")
    if not rows(table):
        return say_nothing_here(figure, "No iteration was recorded.", palette)
    spared = column(table, "blocks_spared")
    line = step_line(
        column(table, "t"), spared, "spared", palette.kv_used, unit="blocks", fill=faded(palette.kv_used, 0.3)
    )
    figure.add_trace(line)
    return figure


def _in_two_lines(words: str) -> str:
    """Broken before its ``not``, so that a narrow axis need not slant it."""
    return words.replace(" not ", "<br>not ")


def prefix_effects(table: Table, palette: Palette) -> go.Figure:
    """``table``: one row with the shares named in ``EFFECTS``."""
    figure = new_figure(palette, y_title="spared, %", x_title="", height=240)
    shares = [float(np.nan_to_num(column(table, name)[0])) if rows(table) else 0.0 for name in EFFECTS]
    figure.add_bar(
        x=[_in_two_lines(words) for words in EFFECTS.values()],
        y=[100 * share for share in shares],
        marker={"color": [palette.prefill, palette.kv_used, palette.decode]},
        text=[f"{100 * share:.1f} %" for share in shares],
        textposition="outside",
        cliponaxis=False,
        hovertext=list(EFFECTS.values()),
        hovertemplate="%{y:.1f} % %{hovertext}<extra></extra>",
    )
    figure.update_xaxes(rangemode="normal", type="category")
    figure.update_yaxes(range=[0, max(10.0, 115 * max(shares))])
    return figure


@dataclass
class Span:
    """A stretch of the tree without branches whose blocks share their fate."""

    name: int
    parent: int | None
    first: int  # place of its first block
    blocks: int
    requests: int
    holders: int
    state: str
    request: int = -1  # the first that used it
    children: list[int] = field(default_factory=list)


def spans(table: Table) -> dict[int, Span]:
    """Blocks of the tree (``hash``, ``parent``, ``position``, ``requests``, ``holders``, ``state``) put together to
    spans.

    A block joins the one it follows where nothing else follows it and users, holders and state are the same.
    """
    by_hash = {
        row["hash"]: Span(
            row["hash"],
            row["parent"],
            row["position"],
            1,
            row["requests"],
            row["holders"],
            row["state"],
            row.get("request", -1),
        )
        for row in table.to_pylist()
    }
    for span in by_hash.values():
        if span.parent in by_hash:
            by_hash[span.parent].children.append(span.name)
        else:
            span.parent = None
    for name in sorted(by_hash, key=lambda name: -by_hash[name].first):
        span = by_hash[name]
        above = by_hash.get(span.parent) if span.parent is not None else None
        alike = above and (above.requests, above.holders, above.state) == (span.requests, span.holders, span.state)
        if above is not None and alike and len(above.children) == 1:
            above.blocks += span.blocks
            above.children = span.children
            for child in span.children:
                by_hash[child].parent = above.name
            del by_hash[name]
    return by_hash


def in_hover(text: str) -> str:
    """A piece of text as a hover shows it: its beginning, in lines, as text and never as markup."""
    shown = "".join(c if c.isprintable() else " " for c in text[:TEXT_SHOWN]) + ("…" if len(text) > TEXT_SHOWN else "")
    lines = textwrap.wrap(shown, TEXT_WIDTH, break_long_words=True)
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def prefix_tree(
    table: Table, palette: Palette, block_size: int, text: Callable[[int, int, int], str] = lambda *_: ""
) -> go.Figure:
    """Icicle of the prefixes: as wide as requests used them, coloured by what became of their blocks.

    ``table``: as for ``spans``. ``text(request, first, last)``: what a request's tokens say. Only the ``MOST_SPANS``
    most used spans are drawn.
    """
    figure = new_figure(palette, y_title="", x_title="", height=420)
    tree = spans(table)
    if not tree:
        return say_nothing_here(figure, "No block of a prefix was recorded up to here.", palette)
    shown = most_used(tree)

    def ends(span: Span) -> tuple[int, int]:
        return span.first * block_size, (span.first + span.blocks) * block_size

    colours: Mapping[str, str] = {"in use": palette.kv_used, "cached": palette.kv_cached, "evicted": palette.ghost}
    roots = sum(s.requests for s in shown if s.parent is None)
    fields = [palette.surface, *(colours[s.state] for s in shown)]
    figure.add_trace(
        go.Icicle(
            ids=["root", *(str(s.name) for s in shown)],
            parents=["", *("root" if s.parent is None else str(s.parent) for s in shown)],
            labels=["all prompts", *(f"{s.blocks * block_size:,} tokens" for s in shown)],
            values=[roots, *(s.requests for s in shown)],
            branchvalues="total",
            marker={"colors": fields, "line": {"color": palette.background, "width": 1}},
            textfont={"color": [ink_on(field) for field in fields]},
            customdata=[
                [0, 0, "", 0, ""],
                *([*ends(s), s.state, s.holders, in_hover(text(s.request, *ends(s)))] for s in shown),
            ],
            hovertemplate="tokens %{customdata[0]:,} to %{customdata[1]:,}<br>used by %{value} requests, held by "
            "%{customdata[3]}<br>%{customdata[2]}<br><i>%{customdata[4]}</i><extra></extra>",
            tiling={"orientation": "h"},
            root={"color": palette.surface},
            maxdepth=12,
        )
    )
    return figure


def most_used(tree: dict[int, Span]) -> list[Span]:
    """The most used spans, none without its parent."""
    order = sorted(tree.values(), key=lambda s: (-s.requests, s.first))[:MOST_SPANS]
    kept: dict[int, Span] = {}
    for span in sorted(order, key=lambda s: s.first):
        if span.parent is None or span.parent in kept:
            kept[span.name] = span
    return list(kept.values())
