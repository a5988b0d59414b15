"""The room's live channel: where the presenter is, who is here and how many have answered, as one state.

Every client is told the whole state when it comes and whenever it changes, so a connection that was gone for a while
misses nothing. Only the window that presents may say where it is and what it looks at there: the first of the owner's
windows, until another takes over or it has been gone for ``PRESENTER_KEPT_S``. What it showed last stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from app.errors import LabError
from app.rights import Visitor
from app.room.look import Look, look_of
from app.room.room import Room, get_room
from app.server.gate import VISITOR
from app.server.incoming import json_object

CHANNEL_PATH = "/room-channel"
LOOK_S = 0.2
FIRST_MESSAGE_S = 10.0
PRESENTER_KEPT_S = 30.0
LARGEST_MESSAGE = 4096
CODE_REFUSED = 4403
TAB = re.compile(r"[a-z0-9]{8,40}")


@dataclass(eq=False)
class _Client:
    """A window that is connected."""

    who: Visitor
    tab: str


class RoomChannel:
    """Serves every client of ``/room-channel``. Used on the event loop only."""

    def __init__(self) -> None:
        self._clients: set[_Client] = set()
        self._presenter = ""  # the tab that presents
        self._presenter_seen = 0.0
        self._look: Look | None = None  # what it looked at last
        self._counted: tuple[float, dict[str, Any]] = (0.0, {})

    async def __call__(self, socket: WebSocket) -> None:
        who, room = socket.scope.get(VISITOR), get_room()
        await socket.accept()
        if who is None or room is None:
            await _refuse(socket, "no-room", "No room is open in this lab.")
            return
        try:
            message = await asyncio.wait_for(socket.receive_text(), FIRST_MESSAGE_S)
            client = _Client(who, _tab(message))
        except LabError as error:
            await _refuse(socket, error.kind, error.message)
            return
        except (TimeoutError, KeyError):
            await _refuse(socket, "silent", "No message came.")
            return
        except WebSocketDisconnect:
            return
        self._clients.add(client)
        try:
            await self._serve(socket, client, room)
        except (WebSocketDisconnect, RuntimeError) as error:
            if isinstance(error, RuntimeError) and socket.client_state == WebSocketState.CONNECTED:
                raise
        finally:
            self._clients.discard(client)

    async def _serve(self, socket: WebSocket, client: _Client, room: Room) -> None:
        if not client.who.is_viewer and self._presenter_is_free(client):
            self._present(client)
        tasks = [asyncio.create_task(one) for one in (self._listen(socket, client, room), self._tell(socket, client))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    async def _tell(self, socket: WebSocket, client: _Client) -> None:
        told: dict[str, Any] | None = None
        while True:
            room = get_room()
            if room is None:
                await _refuse(socket, "over", "The room is over.")
                return
            if client.tab == self._presenter:
                self._presenter_seen = time.monotonic()
            state = self._state(room) | {"presenting": client.tab == self._presenter and not client.who.is_viewer}
            if state != told:
                await socket.send_json(state)
                told = state
            await asyncio.sleep(LOOK_S)

    async def _listen(self, socket: WebSocket, client: _Client, room: Room) -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                self._heard(json_object(message.get("text") or "", most_bytes=LARGEST_MESSAGE), client, room)
            except LabError as error:
                await _refuse(socket, error.kind, error.message)
                return
            await asyncio.sleep(LOOK_S / 2)  # a client that says more is heard more slowly

    def _heard(self, message: dict[str, Any], client: _Client, room: Room) -> None:
        if client.who.is_viewer:
            raise LabError("not-allowed", message="Viewers of a room may not present.")
        if message.get("take_over"):
            self._present(client)
        show = message.get("show")
        if isinstance(show, dict) and client.tab == self._presenter:
            room.show(str(show.get("page", "")), str(show.get("query", "")))
        look = message.get("look")
        if look is not None and client.tab == self._presenter:
            self._look = look_of(look)

    def _present(self, client: _Client) -> None:
        self._presenter, self._presenter_seen = client.tab, time.monotonic()

    def _presenter_is_free(self, client: _Client) -> bool:
        gone = time.monotonic() - self._presenter_seen > PRESENTER_KEPT_S
        return not self._presenter or self._presenter == client.tab or gone

    def _state(self, room: Room) -> dict[str, Any]:
        """The state that is the same for everybody, counted at most once in ``LOOK_S``."""
        now = time.monotonic()
        at, state = self._counted
        if now - at < LOOK_S / 2 and state.get("revision") == room.revision:
            return state
        asked = room.asked_now()
        here = {client.who.member for client in self._clients if client.who.is_viewer}
        answered = set(room.predictions(*asked)) if asked is not None else set()
        state = {
            "type": "room",
            "revision": room.revision,
            "shown": room.kept.shown.model_dump(),
            "look": self._look.model_dump(by_alias=True) if self._look is not None else None,
            "here": len(here),
            "asked": asked is not None and not room.question(*asked).experiment_id,
            "answered": len(answered),
            "expected": len(here | answered),
            "presenter": any(c.tab == self._presenter and not c.who.is_viewer for c in self._clients),
        }
        self._counted = (now, state)
        return state


def _tab(text: str) -> str:
    """The name that a window gives itself in its first message. Raises ``LabError``."""
    tab = json_object(text, most_bytes=LARGEST_MESSAGE).get("tab")
    if not isinstance(tab, str) or not TAB.fullmatch(tab):
        raise LabError("bad-message", message='The first message is {"tab": NAME}, 8 to 40 small letters and digits.')
    return tab


async def _refuse(socket: WebSocket, kind: str, message: str) -> None:
    with contextlib.suppress(RuntimeError):
        await socket.send_json({"type": "error", "kind": kind, "message": message})
        await socket.close(CODE_REFUSED, kind)
