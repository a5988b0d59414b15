"""What a client asked, as it goes on inside the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from engine.config.door import Ask


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
    steps: list[list[int]] = field(default_factory=list)  # tokens of each step that nobody has taken yet
    ended: dict[str, Any] | None = None
    is_lost: bool = False  # the engine is gone
    last_ns: int | None = None  # when it was last given tokens, on the run's clock
    gaps_ns: int = 0  # between its tokens, together
    output_tokens: int = 0

    @property
    def is_over(self) -> bool:
        return self.ended is not None or self.is_lost

    def take(self) -> list[list[int]]:
        """Tokens of the steps since the last call."""
        taken, self.steps = self.steps, []
        return taken
