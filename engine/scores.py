"""What the model thought of a request's tokens: their log-probabilities, and the likeliest tokens in their places.

Of the logits as the model gave them, before temperature and filters, as vLLM's ``raw_logprobs``. Natural logarithm,
float32. ``engine.likelihood`` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Score = tuple[float, list[tuple[int, float]]]
"""A token's log-probability, and the likeliest tokens in its place with theirs, best first."""


@dataclass(eq=False)
class Scores:
    """What is to be read for one request, and what was."""

    most: int  # likeliest tokens in each place
    of_prompt: bool = False  # the prompt's tokens, too
    is_told: bool = True  # somebody takes them as they come
    is_kept: bool = False  # they go into the request's row
    output: list[Score] = field(default_factory=list)  # of tokens drawn that nobody has taken yet, in order
    kept: list[float] = field(default_factory=list)  # log-probabilities of all tokens drawn, in order
    prompt: dict[int, Score] = field(default_factory=dict)  # by place; the first token has none
