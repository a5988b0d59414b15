"""The live socket: one run's new rows and figures, pushed to a page as they come (``docs/architecture.md``).

A client is sent what is new since its last frame, at most ten times a second and less often where it asks for that,
straight from memory. Nothing is queued
for it: one that reads slowly is simply asked less often (the server waits for the network) and then gets a larger,
thinned frame.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from app.errors import LabError
from app.rights import THE_OWNER
from app.server.gate import VISITOR
from app.server.incoming import json_object
from telemetry.status import Status, is_final, read_status

if TYPE_CHECKING:
    from app.lab import Lab

FRAME_S = 0.1
SLOWEST_FRAME_S = 5.0
FIGURES_S = 0.5
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
        view = _View(self._lab, wish)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            for message in await run_in_threadpool(view.news):
                if isinstance(message, bytes):
                    await socket.send_bytes(message)
                else:
                    await socket.send_json(message)
            pause = max(FIGURES_S, wish.pace_s) if view.at_rest else wish.pace_s
            await asyncio.sleep(max(0.0, pause - (loop.time() - began)))


class _View:
    """What one client has been told. Used by one thread at a time, never by the event loop's."""

    def __init__(self, lab: Lab, wish: Wish) -> None:
        self._lab = lab
        self._wish = wish
        self._run_dir = lab.home.run_dir(wish.run_id)
        self._status: Status = {}
        self._figures_due = 0.0
        self._told_all = False  # the figures of the whole run were sent
        self._spent_s = 0.0  # processor time since the last figures
        self._figures_at = time.monotonic()
        self.at_rest = False  # the run is over and everything was sent

    def news(self) -> list[dict[str, Any] | bytes]:
        """Messages for what changed since the last call; with the figures goes what watching costs here."""
        began = time.thread_time()
        messages = self._news()
        self._spent_s += time.thread_time() - began
        return messages

    def _news(self) -> list[dict[str, Any] | bytes]:
        messages: list[dict[str, Any] | bytes] = []
        live = self._lab.live(self._wish.run_id)
        status = read_status(self._run_dir)
        changed = status != self._status
        if changed:
            self._status = status
            messages.append({"type": "status"} | {key: value for key, value in status.items() if key != "in_flight"})
        frames = live.frame_since(self._wish.cursor)
        messages += frames
        self.at_rest = is_final(status) and not frames and not changed and self._told_all
        now = time.monotonic()
        if now >= self._figures_due and not self.at_rest:
            self._figures_due = now + FIGURES_S
            figures = self._lab.figures(self._wish.run_id, status)
            self._told_all = figures["final"]
            messages.append({"type": "figures", **figures, "watching_percent": self._cost(now)})
        return messages

    def _cost(self, now: float) -> float:
        """Percent of a core that this client took since the last figures."""
        percent = 100 * self._spent_s / max(1e-9, now - self._figures_at)
        self._spent_s, self._figures_at = 0.0, now
        return percent


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
