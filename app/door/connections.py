"""The door's connections, found again by their client, so that one whose client takes nothing can be let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.server.connections import BoundedHttp

if TYPE_CHECKING:
    from starlette.types import Scope

_open: dict[tuple[str, int], Any] = {}  # transports by the client's address and port


class DoorHttp(BoundedHttp):
    """As the lab's connections, and found by ``abort``."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.client is not None:
            _open[self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.client is not None and _open.get(self.client) is self.transport:
            del _open[self.client]
        super().connection_lost(exc)


def abort(scope: Scope) -> None:
    """End the connection of a request at once; what was not taken is dropped."""
    client = scope.get("client")
    transport = _open.get(tuple(client)) if client else None
    if transport is not None:
        transport.abort()
