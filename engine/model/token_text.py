"""Every token of a tokenizer as a piece of text, the special ones too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from engine.model.tokenizer import StreamDecoder, byte_tokens


class EveryToken:
    """A tokenizer's text with its special tokens."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._bytes = byte_tokens(backend)

    @classmethod
    def from_directory(cls, directory: Path) -> EveryToken:
        return cls(tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json")))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def shows(self, token: int) -> bool:
        return self._backend.id_to_token(token) is not None

    def is_byte(self, token: int) -> bool:
        return token in self._bytes

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """A piece of text per token. Pieces that only make a character together stand with the last of them."""
        stream, texts, given, shown = StreamDecoder(self), list[str](), "", ""
        for token in ids:
            given += stream.push(token)
            now = given + stream.ahead
            texts.append(now[len(shown) :])
            shown = max(shown, now, key=len)
        if texts:
            texts[-1] += (given + stream.flush())[len(shown) :]
        return texts
