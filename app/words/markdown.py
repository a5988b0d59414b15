"""Notes that a person wrote in Markdown, as HTML that can do nothing: no markup of its own, no picture, no other
address than a web page's.
"""

from __future__ import annotations

from functools import cache

from markdown_it import MarkdownIt


def as_html(text: str) -> str:
    """The text as HTML; what looks like HTML in it stays text."""
    return str(_renderer().render(text))


@cache
def _renderer() -> MarkdownIt:
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table").enable("strikethrough")
    renderer.disable(["image", "html_block", "html_inline"])  # a picture would be fetched by whoever opens the report
    renderer.validateLink = _is_page  # type: ignore[assignment, method-assign]
    return renderer


def _is_page(address: str) -> bool:
    return address.lower().startswith(("https://", "http://", "#", "/?"))
