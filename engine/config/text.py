"""Tokens as text, for who looks at a run: a tokenizer is read when it is asked for, never a model's weights, and
nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.errors import EngineError
from engine.config.models import EMBEDDED_MODEL, embedded_dir

if TYPE_CHECKING:
    from engine.model.token_text import EveryToken
    from engine.model.tokenizer import StreamDecoder, TextTokens


@lru_cache(maxsize=16)
def tokenizer_of(model: str, vocab: int) -> TextTokens | None:
    """The tokenizer a run's model had; None where it is not on this machine. ``vocab``: of a model of random
    weights."""
    from engine.model.tokenizer import ByteTokenizer, Tokenizer

    if model.startswith("random:"):
        return ByteTokenizer(vocab) if vocab else None
    folder = _folder(model)
    try:
        return Tokenizer.from_directory(folder) if folder is not None else None
    except (EngineError, OSError, json.JSONDecodeError):
        return None


def tokenizer_here(model: str) -> TextTokens | None:
    """As ``tokenizer_of``, for a model that nobody has loaded yet."""
    from engine.model.shape import RANDOM

    shape = RANDOM.get(model.removeprefix("random:"))
    return tokenizer_of(model, 0 if shape is None else shape.vocab)


def served_tokenizer(model: str, vocab: int) -> TextTokens:
    """The tokenizer of a model that an engine on this machine has loaded, wherever its files lie.

    Raises:
        EngineError: it cannot be read.
    """
    known = tokenizer_of(model, vocab)
    if known is not None:
        return known
    from engine.model.load import model_directory, resolve
    from engine.model.tokenizer import Tokenizer

    return Tokenizer.from_directory(model_directory(resolve(model)))


def single_texts(model: str, tokenizer: TextTokens) -> Callable[[int], str]:
    """The text of a token by itself, special tokens included where the model's files lie in a folder."""
    tokens = _every_token(model)

    @lru_cache(maxsize=65_536)
    def text(token: int) -> str:
        return tokenizer.decode([token]) if tokens is None else tokens.decode([token])

    return text


def tokenizer_facts(model: str) -> dict[str, str | None]:
    """Special tokens and chat template of a model whose files lie in a folder; nothing is known of others."""
    from engine.model.chat import chat_template, special_tokens
    from engine.model.reading import read_json

    folder = _folder(model)
    if folder is None:
        return {}
    settings = read_json(folder / "tokenizer_config.json", required=False)
    named, template = special_tokens(folder, settings), chat_template(folder)
    return {
        **{name: named.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")},
        "chat_template": None if template is None else template.source,
    }


def stream_decoder(tokenizer: TextTokens) -> StreamDecoder:
    """Text of one request as its tokens come."""
    from engine.model.tokenizer import StreamDecoder

    return StreamDecoder(tokenizer)


def token_texts(model: str, ids: Sequence[int]) -> list[str]:
    """A piece of text per token, special tokens included; token numbers where the model's tokenizer is not on this
    machine.

    Pieces that only make a character together stand with the last of them.
    """
    tokens = _every_token(model)
    return [f"{token} " for token in ids] if tokens is None else tokens.pieces(ids)


@lru_cache(maxsize=4)
def _every_token(model: str) -> EveryToken | None:
    from engine.model.token_text import EveryToken

    folder = _folder(model)
    return None if folder is None else EveryToken.from_directory(folder)


def _folder(model: str) -> Path | None:
    """Where the model's tokenizer.json lies."""
    folder = embedded_dir() if model == EMBEDDED_MODEL else Path(model).expanduser()
    return folder if (folder / "tokenizer.json").is_file() else None
