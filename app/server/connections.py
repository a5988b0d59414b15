"""How many connections the lab holds, and for how long it waits for what they ask.

Every connection costs a file descriptor, and a process that has none left can neither answer nor write: asyncio then
logs an error for each attempt. So there are fewer connections than descriptors; beyond ``MOST_CONNECTIONS`` the one
that has waited longest without asking anything makes room, and whoever asks nothing within ``FIRST_REQUEST_S`` is let
go.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 512
FIRST_REQUEST_S = 15.0
DESCRIPTORS = 8192  # for connections, the database, runs' files and the browser's many small requests


def listening_socket(family: int = socket.AF_INET) -> socket.socket:
    """A socket to listen on. Its protocol is named: asyncio turns Nagle's algorithm off only where it reads TCP there,
    and with it on an answer on a connection that is kept waits 40 ms for the client's delayed acknowledgement."""
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)


def more_descriptors() -> None:
    """Raise this process's limit of open files to ``DESCRIPTORS`` as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """``MOST_CONNECTIONS``, or half the descriptors this process may have where those are few."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, soft // 2)


class BoundedHttp(H11Protocol):
    """uvicorn's HTTP connection with a bound on their number and on silence before the first request."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(FIRST_REQUEST_S, self._end_if_silent)
        if len(self.connections) > most_connections():
            silent = (c for c in self.connections if isinstance(c, BoundedHttp) and c.is_silent and c is not self)
            longest = min(silent, key=lambda c: c._timer.when() if c._timer else 0.0, default=self)
            longest.transport.abort()
            self.connections.discard(longest)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def is_silent(self) -> bool:
        """Whether no whole request has come yet."""
        return self.scope is None

    def _end_if_silent(self) -> None:
        if self.is_silent:
            self.transport.abort()
