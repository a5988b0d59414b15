"""One HTTP answer from its request to its end: asked, followed while it grows, given up when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from app.door.answer_text import AnswerText
from app.door.answers import Answer, failure_event
from app.door.bodies import CompletionBody
from app.door.connections import abort
from app.door.errors import UNAVAILABLE, DoorError, of_engine
from app.door.streams import Exchange

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from app.door.bodies import Generation
    from app.door.desk import Desk

STALL_S = 60.0  # a client that takes nothing for so long is let go
_SSE = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Reply(Response):
    """The answer to a completion or a chat, streamed or whole.

    Each answer waits for its own client only: what the client does not take is joined and kept here, bounded by the
    longest answer, and the engine and other streams go on.
    """

    def __init__(self, desk: Desk, body: Generation, came_ns: int) -> None:
        super().__init__()
        self._desk = desk
        self._body = body
        self._came_ns = came_ns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        desk, body, started = self._desk, self._body, time.monotonic()
        exchange, prompts = await desk.open(body, self._came_ns)
        watch = asyncio.create_task(_until_gone(receive, exchange))
        try:
            words = [AnswerText(desk.tokenizer, body.stops, s.ask.stop_token_ids) for s in exchange.streams]
            answer = Answer(exchange, body, desk.model, words, prompts, desk.text_of, self._echoes(prompts))
            if body.stream:
                await self._stream(answer, exchange, scope, send)
            else:
                await self._whole(answer, exchange, scope, receive, send)
        finally:
            watch.cancel()
            desk.close(exchange, started)

    def _echoes(self, prompts: list[list[int]]) -> list[str] | None:
        """The prompts as text, where they come before the answers."""
        body = self._body
        if not isinstance(body, CompletionBody) or not body.echo:
            return None
        decode = self._desk.tokenizer.decode
        return [p if isinstance(p, str) else decode(ids) for p, ids in zip(body.prompts, prompts, strict=True)]

    async def _whole(self, answer: Answer, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        while not exchange.is_over and failure_of(exchange) is None:
            await _news(exchange)
            if exchange.has_left:
                return
        failure = failure_of(exchange)
        if failure is not None:
            raise failure
        response = JSONResponse(answer.whole(), headers=_own_headers(scope))
        await response(scope, receive, send)

    async def _stream(self, answer: Answer, exchange: Exchange, scope: Scope, send: Send) -> None:
        begun = False
        while True:
            await _news(exchange)
            if exchange.has_left:
                return
            over, failure = exchange.is_over, failure_of(exchange)
            if failure is not None and not begun:
                raise failure
            data = b"".join(answer.chunks())
            if not begun:
                headers = [*_SSE, *((k.encode(), v.encode("latin-1")) for k, v in _own_headers(scope).items())]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                begun = True
            if failure is not None:
                data += failure_event(failure)
            elif over:
                data += answer.last_chunks()
            ends = over or failure is not None
            if not await _sent(send, {"type": "http.response.body", "body": data, "more_body": not ends}):
                exchange.has_left = True
                abort(scope)
                return
            if ends:
                return


def failure_of(exchange: Exchange) -> DoorError | None:
    """Why an exchange cannot be answered as it was asked; None while it can."""
    if any(stream.is_lost for stream in exchange.streams):
        message = "The engine process ended before the answer was whole. The run's status says why."
        return DoorError(UNAVAILABLE, message, code="engine_gone")
    for stream in exchange.streams:
        if stream.ended is None:
            continue
        if stream.ended["reason"] == "failed":
            return of_engine(stream.ended["error"] or {})
        if stream.ended["reason"] == "cancelled":
            return DoorError(UNAVAILABLE, "The request was cancelled: the run is being ended.", code="cancelled")
    return None


async def _sent(send: Send, message: Message) -> bool:
    """Whether the client took it, or the connection could hold it, in time."""
    try:
        async with asyncio.timeout(STALL_S):
            await send(message)
    except TimeoutError:
        return False
    return True


async def _news(exchange: Exchange) -> None:
    await exchange.news.wait()
    exchange.news.clear()


async def _until_gone(receive: Receive, exchange: Exchange) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        exchange.has_left = True
        exchange.news.set()


def _own_headers(scope: Scope) -> dict[str, str]:
    """The client's own name of its request goes back with the answer."""
    for key, value in scope["headers"]:
        if key == b"x-request-id" and len(value) <= 200 and value.isascii() and value.decode().isprintable():
            return {"x-request-id": value.decode()}
    return {}
