"""Who may come through the door: this machine's hosts, no foreign page, and with a key who has it.

One ASGI middleware in front of every route. Hosts and origins are judged as in the lab (``app.server.guard``); answers
are OpenAI's error objects.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from app.door.errors import DoorError
from app.server.guard import Guard, header_values

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_TO_ALL = frozenset({"/health", "/version", "/metrics", "/v1/models"})
"""GET routes that ask for no key: load generators read them without one, and they tell a model's name and figures."""


class Keeper:
    """ASGI middleware. ``hosts``: names without port that may stand in ``Host``; ``key``: "" asks for none."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], key: str = "") -> None:
        self._app = app
        self._guard = Guard(app, hosts)
        self._key = _digest(key.encode()) if key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = self.refusal(scope)
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await JSONResponse(refused.as_dict(), refused.status, headers=refused.headers)(scope, receive, send)

    def refusal(self, scope: Scope) -> DoorError | None:
        """Why a request is turned down; None if it may pass."""
        reason = self._guard.refusal(scope["headers"])
        if reason is not None:
            reason = reason.replace("the lab's", "the door's").replace("the lab", "the door")
            return DoorError(403, reason, code="foreign")
        if not self._key or (scope["method"] in ("GET", "HEAD") and scope["path"] in OPEN_TO_ALL):
            return None
        given = header_values(scope["headers"], b"authorization")
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # Digests are of one length, so how long the comparison takes says nothing about the key.
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(key.strip().encode("latin-1")), self._key):
            return None
        return DoorError(
            401,
            "Give the door's key as Authorization: Bearer KEY.",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
