"""The HTTP side's end of the door: what is asked of the engine process, and how each request goes on
(``engine.config.door`` has the words).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.door.metrics import Counts
from app.door.streams import Exchange, Step, Stream
from engine.config import RequestSpec
from engine.config.door import DOOR_SOCKET, Ask
from telemetry.limits import MOST_REQUESTS

LONGEST_LINE = 64 << 20


class Link:
    """The engine process as the HTTP side knows it. Everything here belongs to one event loop."""

    def __init__(self, counts: Counts) -> None:
        self.hello: dict[str, Any] = {}
        self.counts = counts
        self.is_gone = False
        self.on_gone: Callable[[], None] = lambda: None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._streams: dict[int, Stream] = {}
        self._next = 0
        self._resets: list[asyncio.Future[dict[str, int]]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @classmethod
    async def connect(cls, run_dir: Path, counts: Counts) -> Link:
        """Reach the engine of a run that is being served. Raises OSError where there is none."""
        link = cls(counts)
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            place = f"/proc/self/fd/{folder}/{DOOR_SOCKET}"
            link._reader, link._writer = await asyncio.open_unix_connection(place, limit=LONGEST_LINE)
        finally:
            os.close(folder)
        link.hello = json.loads(await link._reader.readline())["hello"]
        counts.origin_ns = link.hello["origin_ns"]
        link._task = asyncio.create_task(link._listen())
        return link

    @property
    def open_count(self) -> int:
        """Requests that were asked and have not ended in the engine."""
        return len(self._streams)

    @property
    def is_full(self) -> bool:
        """Whether the run has had as many requests as a run may have."""
        return self._next >= MOST_REQUESTS

    def ask(self, exchange: Exchange, request: RequestSpec, came_ns: int, **more: Any) -> Stream:
        """Ask the engine; the exchange hears how it goes on."""
        ask = Ask(number=self._next, request=request, came_ns=came_ns, **more)
        stream = Stream(self._next, len(exchange.streams), ask, exchange)
        self._next += 1
        exchange.streams.append(stream)
        if self.is_gone:
            stream.is_lost = True
            return stream
        self._streams[stream.number] = stream
        self._say({"ask": ask.model_dump(mode="json", exclude_defaults=True)})
        return stream

    def give_up(self, exchange: Exchange) -> None:
        """The client is gone: its requests need not go on."""
        for stream in exchange.streams:
            if not stream.is_over and not self.is_gone:
                self._say({"cancel": stream.number})

    async def reset_prefix_cache(self) -> dict[str, int]:
        """Have the engine forget what is cached and held by nobody. Raises ConnectionError where it is gone."""
        if self.is_gone:
            raise ConnectionError
        reply: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()
        self._resets.append(reply)
        self._say({"reset": True})
        return await reply

    async def close(self) -> None:
        """No more is asked; wait until the engine has said its last word."""
        self._closing = True
        if not self.is_gone:
            self._say({"close": True})
            with contextlib.suppress(OSError):
                await self._writer.drain()
        if self._task is not None:
            await self._task
        self._writer.close()

    def _say(self, word: dict[str, Any]) -> None:
        self._writer.write(json.dumps(word, separators=(",", ":")).encode() + b"\n")

    async def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await self._reader.readline():
                self._hear(json.loads(line))
        self.is_gone = True
        for stream in self._streams.values():
            stream.is_lost = True
            stream.exchange.news.set()
        self._streams.clear()
        for reply in self._resets:
            if not reply.done():
                reply.set_exception(ConnectionError())
        if not self._closing:
            self.on_gone()

    def _hear(self, told: dict[str, Any]) -> None:
        for step in told.get("steps", ()):
            self.counts.step(step)
        now_ns = self.counts.now_ns
        scores = iter(told.get("scores", ()))
        for number, drafted, *tokens in told.get("tokens", ()):
            stream = self._streams.get(number)
            if stream is not None:
                self.counts.tokens(stream, drafted, len(tokens), now_ns)
                stream.steps.append(Step(tokens, next(scores)[1] if stream.ask.logprobs is not None else ()))
                stream.exchange.news.set()
        for number, of_prompt in told.get("prompt_scores", ()):
            if number in self._streams:
                self._streams[number].prompt_scores = of_prompt
        for about in told.get("ended", ()):
            stream = self._streams.pop(about["number"], None)
            if stream is not None:
                stream.ended = about
                self.counts.ended(stream, about)
                stream.exchange.news.set()
        if "reset" in told and self._resets:
            reply = self._resets.pop(0)
            if not reply.done():
                reply.set_result(told["reset"])


def monotonic_ns() -> int:
    """This moment on the clock that both processes share."""
    return time.monotonic_ns()
