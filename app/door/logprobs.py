"""Log-probabilities of tokens, as OpenAI's two routes form them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

TextOf = Callable[[int], str]
"""The text of a single token."""
Told = Sequence[Any]
"""A score as the engine tells it: a token's log-probability, and ``[token, log-probability]`` of the likeliest."""


class Scored(NamedTuple):
    """A token and what the model thought of it; None for the first of a prompt, which nothing comes before."""

    token: int
    told: Told | None


def of_completion(scored: Sequence[Scored], text_of: TextOf, offset: int = 0) -> dict[str, Any]:
    """Four lists of one length. ``offset``: characters before the first token."""
    texts = [text_of(each.token) for each in scored]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if each.told is None else each.told[0] for each in scored],
        "top_logprobs": [_likeliest(each, text_of) for each in scored],
        "text_offset": offsets,
    }


def of_chat(scored: Sequence[Scored], text_of: TextOf) -> dict[str, Any]:
    """One object for each token."""
    content = []
    for token, told in scored:
        assert told is not None
        alternatives = [_entry(text_of(other), logprob) for other, logprob in told[1]]
        content.append(_entry(text_of(token), told[0]) | {"top_logprobs": alternatives})
    return {"content": content}


def _likeliest(scored: Scored, text_of: TextOf) -> dict[str, float] | None:
    """By text; of several tokens with one text the likeliest. The token itself is always among them."""
    if scored.told is None:
        return None
    own, told = scored.told
    found: dict[str, float] = {}
    for token, logprob in [*told, (scored.token, own)]:
        found.setdefault(text_of(token), logprob)
    return found


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}
