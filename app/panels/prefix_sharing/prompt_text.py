"""What was asked of a run as text by token, for the prefix tree: prompts tokenised as the engine tokenised them.

Only a model's tokenizer is read, never its weights, and nothing is fetched: for a model that is no longer here there is
no text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.config import EngineError, RunSpec
from engine.config.text import tokenizer_of

TextOf = Callable[[int, int, int], str]
"""``(request, first, last)``: the text of a request's tokens from ``first`` up to, not with, ``last``; "" where it is
not known.
"""


def texts_of(spec: RunSpec, vocab: int, outputs: Mapping[int, Sequence[int]]) -> TextOf:
    """Text by place in a request. ``outputs``: token ids of answers, of the requests that kept them."""
    tokenizer = tokenizer_of(spec.engine.model, vocab)
    known: dict[int, list[int]] = {}

    def ids(request: int) -> list[int]:
        if request not in known:
            asked = spec.requests[request]
            if asked.prompt_token_ids is not None:
                prompt: Sequence[int] = asked.prompt_token_ids
            else:
                about: dict[str, Any] = {"chat": asked.chat, "system": asked.system, "length": asked.prompt_tokens}
                about["now"] = spec.asked_at
                prompt = tokenizer.prompt(asked.prompt or "", **about) if tokenizer is not None else ()
            known[request] = [*prompt, *outputs.get(request, ())]
        return known[request]

    def text(request: int, first: int, last: int) -> str:
        if tokenizer is None or not 0 <= request < len(spec.requests):
            return ""
        try:
            return tokenizer.decode(ids(request)[first:last])
        except (EngineError, ValueError, OverflowError):
            return ""

    return text
