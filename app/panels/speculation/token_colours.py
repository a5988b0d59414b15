"""Where each token of an answer came from, and the answer coloured by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from app.charts.frame import faded
from app.components.token_text import marked_tokens
from app.theme import Palette

ORIGINS = {
    "target": "chosen by the model in an ordinary pass, or after a whole accepted draft",
    "accepted": "guessed and accepted",
    "correction": "the model's own token where it rejected a guess",
}


def token_origins(passes: Sequence[Mapping[str, Any]]) -> list[str]:
    """An origin for each output token, from the passes that emitted them in order (``drafted``, ``accepted``,
    ``emitted``).
    """
    origins: list[str] = []
    for one in passes:
        own = "correction" if one["accepted"] < one["drafted"] else "target"
        origins += ["accepted"] * one["accepted"] + [own] * (one["emitted"] - one["accepted"])
    return origins


def coloured(texts: Sequence[str], origins: Sequence[str], palette: Palette) -> str:
    """HTML: the answer with each token's origin as background and underline, and a legend. Texts are escaped."""
    marks = {
        "target": "",
        "accepted": f"background:{faded(palette.draft, 0.28)};border-bottom:2px solid {palette.draft}",
        "correction": f"background:{faded(palette.warn, 0.28)};border-bottom:2px dashed {palette.warn}",
    }
    legend = "".join(
        f"<span><span style='{marks[name]};padding:0 .3em'>{name}</span> {escape(words)}</span>"
        for name, words in ORIGINS.items()
    )
    answer = marked_tokens(
        texts, [(marks[origin], origin) for origin in origins], palette, label="Answer by origin of its tokens"
    )
    return (
        f"<div style='display:flex;flex-wrap:wrap;gap:.3em "
        f"1.2em;font-size:.85em;color:{palette.muted};margin-bottom:.6em'>{legend}</div>{answer}"
    )
