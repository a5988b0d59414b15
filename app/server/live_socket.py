"""The live socket: one run's new rows and figures, pushed to a page as they come (``docs/architecture.md``).

A client is sent what is new since its last frame, at most ten times a second and less often where it asks for that,
straight from memory. Nothing is queued
for it: one that reads slowly is simply asked less often (the server waits for the network) and then gets a larger,
thinned frame. Viewers of a room share one round of news (``app.server.live_view``).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from app.errors import LabError
from app.rights import THE_OWNER
from app.server.gate import VISITOR
from app.server.incoming import json_object
from app.server.live_view import FIGURES_S, LiveView, SharedView, Told

if TYPE_CHECKING:
    from app.lab import Lab

FRAME_S = 0.1
SLOWEST_FRAME_S = 5.0
FIRST_MESSAGE_S = 10.0
VIEWERS_FRAME_S = 0.5  # a room of fifty must not slow the engine that it looks at
MOST_CLIENTS = 160
MOST_SILENT = 64  # connections that have not said yet what they want; the longest silent one makes room for the next
LARGEST_FIRST_MESSAGE = 4096
CODE_REFUSED, CODE_BUSY, CODE_GOING_AWAY = 4403, 4429, 1001
TABLES = ("iteration", "token", "request", "device")
log = logging.getLogger("servescope.live")


@dataclass
class Wish:
    """What a client wants, checked."""

    run_id: str
    cursor: dict[str, int] = field(default_factory=dict)
    every_s: float = FRAME_S
    least_s: float = FRAME_S  # between two frames, whatever the client asks for

    @property
    def pace_s(self) -> float:
        return max(self.every_s, self.least_s)


class LiveSocket:
    """Serves every client of ``/live``."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._clients = 0
        self._silent: deque[asyncio.Future[str]] = deque()
        self._shared: dict[str, SharedView] = {}

    @property
    def clients(self) -> int:
        """Clients connected now that showed the token."""
        return self._clients

    async def __call__(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            wish = await self._first_wish(socket)
            if wish is None:
                return
            who = socket.scope.get(VISITOR, THE_OWNER)
            wish.least_s = VIEWERS_FRAME_S if who.is_viewer else FRAME_S
            if self._clients >= MOST_CLIENTS:
                await _refuse(socket, CODE_BUSY, "busy", f"The lab serves {MOST_CLIENTS} live views already.")
                return
            self._clients += 1
            try:
                await self._serve(socket, wish)
            finally:
                self._clients -= 1
        except (WebSocketDisconnect, RuntimeError) as error:
            if isinstance(error, RuntimeError) and socket.client_state == WebSocketState.CONNECTED:
                raise

    async def _first_wish(self, socket: WebSocket) -> Wish | None:
        """What the client asks for; None once it was told why it gets nothing."""
        message = asyncio.ensure_future(socket.receive_text())
        self._silent.append(message)
        if len(self._silent) > MOST_SILENT:
            self._silent.popleft().cancel()
        try:
            return self._read_wish(await asyncio.wait_for(message, FIRST_MESSAGE_S))
        except (TimeoutError, asyncio.CancelledError):
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            await _refuse(socket, CODE_REFUSED, "silent", "No message came.")
        except LabError as error:
            await _refuse(socket, CODE_REFUSED, error.kind, error.message)
        except KeyError:  # a binary first message
            await _refuse(socket, CODE_REFUSED, "bad-message", "The first message is text.")
        finally:
            if message in self._silent:
                self._silent.remove(message)
        return None

    async def _serve(self, socket: WebSocket, wish: Wish) -> None:
        listener = asyncio.create_task(_listen(socket, wish))
        sender = asyncio.create_task(self._send(socket, wish))
        done, pending = await asyncio.wait((listener, sender), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    def _read_wish(self, text: str) -> Wish:
        """Raises ``LabError`` for a wrong token, an unknown run or a message that is none."""
        try:
            message = json_object(text, most_bytes=LARGEST_FIRST_MESSAGE)
        except LabError as error:
            raise LabError("bad-message", message=f"The first message: {error.message}") from None
        token = message.get("token")
        if not isinstance(token, str) or not self._knows(token):
            raise LabError("bad-token", message="The token is not this lab's. Load the page again.")
        run_id = message.get("run")
        self._lab.home.existing_run_dir(run_id)  # type: ignore[arg-type]  # refuses anything that is no id
        since = message.get("since") or {}
        if not isinstance(since, dict):
            raise LabError("bad-message", message="`since` is not an object.")
        cursor = {table: n for table, n in since.items() if table in TABLES and type(n) is int and 0 <= n < 2**53}
        return Wish(str(run_id), cursor, _pace(message) if "every_ms" in message else FRAME_S)

    def _knows(self, token: str) -> bool:
        known = (self._lab.token, self._lab.socket_token)
        matches = [hmac.compare_digest(token.encode(), one.encode()) for one in known]
        return any(matches)

    async def _send(self, socket: WebSocket, wish: Wish) -> None:
        await socket.send_json({"type": "hello", "run": wish.run_id, "since": wish.cursor})
        told, loop = Told(wish.cursor), asyncio.get_running_loop()
        shared, view = wish.least_s >= VIEWERS_FRAME_S, LiveView(self._lab, wish.run_id)
        while True:
            began = loop.time()
            if shared:
                messages = await self._shared_view(wish.run_id).news(told)
            else:
                (messages,) = await run_in_threadpool(view.news, [told])
            for message in messages:
                await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_text(message))
            pause = max(FIGURES_S, wish.pace_s) if told.at_rest else wish.pace_s
            if not shared or pause > VIEWERS_FRAME_S:
                await asyncio.sleep(max(0.0, pause - (loop.time() - began)))

    def _shared_view(self, run_id: str) -> SharedView:
        """What the run's viewers share; those that nobody watches any more are forgotten."""
        if run_id not in self._shared:
            self._shared = {name: view for name, view in self._shared.items() if view.in_use}
            self._shared[run_id] = SharedView(self._lab, run_id, VIEWERS_FRAME_S)
        return self._shared[run_id]


async def _listen(socket: WebSocket, wish: Wish) -> None:
    """Take what the client says of how often it wants news, ``{"every_ms": N}``; returns once it has left or was
    refused.
    """
    while True:
        message: Any = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        try:
            wish.every_s = _pace(json_object(message.get("text") or "", most_bytes=LARGEST_FIRST_MESSAGE))
        except LabError as error:
            await _refuse(socket, CODE_REFUSED, error.kind, error.message)
            return


def _pace(message: dict[str, Any]) -> float:
    """Seconds between two frames. Raises ``LabError`` where the message does not say them."""
    every: Any = message.get("every_ms")
    known = isinstance(every, int | float) and not isinstance(every, bool)
    if not known or not FRAME_S <= every / 1000 <= SLOWEST_FRAME_S:
        least, most = round(1000 * FRAME_S), round(1000 * SLOWEST_FRAME_S)
        raise LabError("bad-message", message=f"`every_ms` must be a number from {least} to {most}.")
    return float(every / 1000)


async def _refuse(socket: WebSocket, code: int, kind: str, message: str) -> None:
    await socket.send_json({"type": "error", "kind": kind, "message": message})
    await socket.close(code, kind)
