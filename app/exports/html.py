"""The pieces of an exported page: it needs no network and nothing in it can reach one, and text of strangers stays
text.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from app.charts import CONFIG
from app.words.table import Table

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'none'"
)


STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


def story(
    title: str, question: str, labels: Iterable[str], sentences: Iterable[str], warnings: Iterable[str] = ()
) -> str:
    badges = "".join(f"<span class='label'>{_text(label)}</span>" for label in labels)
    asked = f"<p class='question'>{_text(question)}</p>" if question else ""
    told = "".join(f"<p>{_text(sentence)}</p>" for sentence in sentences)
    warned = "".join(f"<p class='warning'>{_text(sentence)}</p>" for sentence in warnings)
    return f"<h1>{_text(title)}</h1><p>{badges}</p>{asked}<div class='verdict'>{told}</div>{warned}"


def section(title: str, body: str, note: str = "") -> str:
    return f"<section><h2>{_text(title)}</h2><p class='note'>{_text(note)}</p>{body}</section>"


def chart_section(figures: Sequence[tuple[str, go.Figure]], thinned: bool) -> str:
    note = (
        "Charts show a part of the rows: of every stretch the longest iteration, of gaps an even share."
        if thinned
        else ""
    )
    divs = []
    for title, figure in figures:
        figure.update_layout(paper_bgcolor="#ffffff", plot_bgcolor="#ffffff")
        drawing = figure.to_html(include_plotlyjs=False, full_html=False, config=CONFIG)
        divs.append(f"<figure><figcaption>{_text(title)}</figcaption>{drawing}</figure>")
    return f"<section><h2>Charts</h2><p class='note'>{_text(note)}</p>{''.join(divs)}</section>"


def table_section(table: Table) -> str:
    """A result table with its title and note."""
    return section(table.title, table_of(table.heads, table.cells()), table.note)


def again(command: str) -> str:
    return section("How to run it again", f"<pre>{_text(command)}</pre>")


def fine_print(words: str) -> str:
    return f"<footer>{_text(words)} Made with ServeScope.</footer>"


def pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return table_of(("", ""), pairs)


def table_of(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    heads = "".join(f"<th>{_text(cell)}</th>" for cell in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def _text(value: Any) -> str:
    """Text that stays text: escaped, control characters shown as a box, each piece with its own writing direction."""
    shown = "".join(c if c.isprintable() or c in "\n\u00a0" else "\ufffd" for c in str(value))
    return html.escape(shown, quote=True)


def page(title: str, parts: Sequence[str]) -> str:
    head = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_text(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style>"
        f"<script>window.PlotlyConfig={json.dumps({'MathJaxConfig': 'local'})};</script>"
        f"<script>{get_plotlyjs()}</script></head>"
    )
    return f"{head}<body><main>{''.join(parts)}</main></body></html>"
