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
    badges = "".join(f"<span class='label'>{text_of(label)}</span>" for label in labels)
    asked = f"<p class='question'>{text_of(question)}</p>" if question else ""
    told = "".join(f"<p>{text_of(sentence)}</p>" for sentence in sentences)
    warned = "".join(f"<p class='warning'>{text_of(sentence)}</p>" for sentence in warnings)
    return f"<h1>{text_of(title)}</h1><p>{badges}</p>{asked}<div class='verdict'>{told}</div>{warned}"


def section(title: str, body: str, note: str = "") -> str:
    return f"<section><h2>{text_of(title)}</h2><p class='note'>{text_of(note)}</p>{body}</section>"


def note_of(written: str) -> str:
    """What a person wrote. ``written``: HTML of ``app.words.markdown``, which can do nothing."""
    return f"<div class='written'>{written}</div>"


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
        divs.append(f"<figure><figcaption>{text_of(title)}</figcaption>{drawing}</figure>")
    return f"<section><h2>Charts</h2><p class='note'>{text_of(note)}</p>{''.join(divs)}</section>"


def table_section(table: Table) -> str:
    """A result table with its title and note."""
    return section(table.title, table_of(table.heads, table.cells()), table.note)


def again(command: str) -> str:
    return section("How to run it again", f"<pre>{text_of(command)}</pre>")


def fine_print(words: str) -> str:
    return f"<footer>{text_of(words)} Made with ServeScope.</footer>"


def pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return table_of(("", ""), pairs)


def table_of(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    heads = "".join(f"<th>{text_of(cell)}</th>" for cell in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{text_of(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def text_of(value: Any) -> str:
    """Text that stays text: escaped, control characters shown as a box, each piece with its own writing direction."""
    shown = "".join(c if c.isprintable() or c in "\n\u00a0" else "\ufffd" for c in str(value))
    return html.escape(shown, quote=True)


def page(title: str, parts: Sequence[str]) -> str:
    head = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{text_of(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style>"
        f"<script>window.PlotlyConfig={json.dumps({'MathJaxConfig': 'local'})};</script>"
        f"<script>{get_plotlyjs()}</script></head>"
    )
    return f"{head}<body><main>{''.join(parts)}</main></body></html>"
