"""What a client asked, as it goes on inside the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.config.door import Ask


class Step(NamedTuple):
    """What one step of the engine gave a stream."""

    tokens: list[int]
    scores: Sequence[Any] = ()  # as the engine tells them, one for each token, where they were asked for


@dataclass(eq=False)
class Exchange:
    """One HTTP request: its answers, and the moment there is news of any of them."""

    streams: list[Stream] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    has_left: bool = False  # the client

    @property
    def is_over(self) -> bool:
        return all(stream.is_over for stream in self.streams)


@dataclass(eq=False)
class Stream:
    """One request inside the engine, as it goes on."""

    number: int
    choice: int  # its place among the answers of its HTTP request
    ask: Ask
    exchange: Exchange
    steps: list[Step] = field(default_factory=list)  # that nobody has taken yet
    prompt_scores: list[Any] = field(default_factory=list)  # from the prompt's second token on
    ended: dict[str, Any] | None = None
    is_lost: bool = False  # the engine is gone
    last_ns: int | None = None  # when it was last given tokens, on the run's clock
    gaps_ns: int = 0  # between its tokens, together
    output_tokens: int = 0

    @property
    def is_over(self) -> bool:
        return self.ended is not None or self.is_lost

    def take(self) -> list[Step]:
        """The steps since the last call."""
        taken, self.steps = self.steps, []
        return taken
