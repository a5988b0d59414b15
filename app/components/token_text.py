"""An answer as text of which each token is marked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from app.theme import Palette


def marked_tokens(texts: Sequence[str], marks: Sequence[tuple[str, str]], palette: Palette, *, label: str) -> str:
    """HTML: the tokens in a region that scrolls and has a ``label``. Texts are escaped.

    ``marks``: of each token its style and its title, both ours and never a user's.
    """
    body = "".join(
        f"<span style='{style}' title='{title}'>{escape(text)}</span>"
        for text, (style, title) in zip(texts, marks, strict=False)
    )
    return (
        f"<div role='region' aria-label='{label}' tabindex='0' "
        f"style='white-space:pre-wrap;overflow-wrap:anywhere;"
        f"max-height:320px;overflow-y:auto;line-height:1.7;color:{palette.text}'>{body}</div>"
    )
