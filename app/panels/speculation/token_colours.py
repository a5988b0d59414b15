"""Where each token of an answer came from, and the answer coloured by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from app.charts.frame import faded
from app.theme import Palette
from engine.config import EMBEDDED_MODEL
from engine.model.cache import models_dir
from engine.model.tokenizer import StreamDecoder, byte_tokens

ORIGINS = {
    "target": "chosen by the model in an ordinary pass, or after a whole accepted draft",
    "accepted": "guessed and accepted",
    "correction": "the model's own token where it rejected a guess",
}


def token_origins(passes: Sequence[Mapping[str, Any]]) -> list[str]:
    """An origin for each output token, from the passes that emitted them in order (``drafted``, ``accepted``, ``emitted``)."""
    origins: list[str] = []
    for one in passes:
        own = "correction" if one["accepted"] < one["drafted"] else "target"
        origins += ["accepted"] * one["accepted"] + [own] * (one["emitted"] - one["accepted"])
    return origins


def token_texts(model: str, ids: Sequence[int]) -> list[str]:
    """A piece of text per token; token numbers where the model's tokenizer is not at hand. Pieces that only make a character together
    stand with the last of them."""
    tokenizer = _tokenizer(model)
    if tokenizer is None:
        return [f"{token} " for token in ids]
    stream, texts, given, shown = StreamDecoder(tokenizer), [], "", ""
    for token in ids:
        given += stream.push(token)
        now = given + stream.ahead
        texts.append(now[len(shown) :])
        shown = max(shown, now, key=len)
    if texts:
        texts[-1] += (given + stream.flush())[len(shown) :]
    return texts


class EveryToken:
    """A tokenizer's text with its special tokens."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._bytes = byte_tokens(backend)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def shows(self, token: int) -> bool:
        return self._backend.id_to_token(token) is not None

    def is_byte(self, token: int) -> bool:
        return token in self._bytes


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
    body = "".join(
        f"<span style='{marks[origin]}' title='{origin}'>{escape(text)}</span>"
        for text, origin in zip(texts, origins, strict=False)
    )
    return (
        f"<div style='display:flex;flex-wrap:wrap;gap:.3em 1.2em;font-size:.85em;color:{palette.muted};margin-bottom:.6em'>{legend}</div>"
        f"<div role='region' aria-label='Answer by origin of its tokens' tabindex='0' style='white-space:pre-wrap;overflow-wrap:anywhere;"
        f"max-height:320px;overflow-y:auto;line-height:1.7;color:{palette.text}'>{body}</div>"
    )


@lru_cache(maxsize=4)
def _tokenizer(model: str) -> EveryToken | None:
    import tokenizers

    if model == EMBEDDED_MODEL:  # converted once, into a folder named after the model and its hash
        found = sorted(models_dir().glob(f"{EMBEDDED_MODEL}-*/tokenizer.json"))
    else:
        found = [path for path in [Path(model).expanduser() / "tokenizer.json"] if path.is_file()]
    return EveryToken(tokenizers.Tokenizer.from_file(str(found[-1]))) if found else None
