"""How many connections the lab holds, and for how long it waits for what they ask.

Every connection costs a file descriptor, and a process that has none left can neither answer nor write: asyncio then
logs an error for each attempt. So there are fewer connections than descriptors; beyond ``MOST_CONNECTIONS`` the one
that has waited longest without asking anything makes room, and whoever asks nothing within ``FIRST_REQUEST_S`` is let
go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import LabError
from app.server.guard import LOOPBACK_HOSTS

MOST_CONNECTIONS = 512
FIRST_REQUEST_S = 15.0
PORTS_TRIED = 50
PASSED_OVER = (errno.EADDRINUSE, errno.EACCES)  # what the next port may not have
DESCRIPTORS = 8192  # for connections, the database, runs' files and the browser's many small requests


def listening_socket(family: int = socket.AF_INET) -> socket.socket:
    """A socket to listen on. Its protocol is named: asyncio turns Nagle's algorithm off only where it reads TCP there,
    and with it on an answer on a connection that is kept waits 40 ms for the client's delayed acknowledgement."""
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)


def listener_at(host: str, port: int, command: str, backlog: int) -> socket.socket:
    """A listening socket: on the loopback interface the next free port where the one asked for is taken (0: any),
    elsewhere that one or none. ``command``: as whose option the port is given, such as ``servescope lab``.

    Raises ``LabError`` where nothing can be listened on.
    """
    here = host in LOOPBACK_HOSTS
    for candidate in range(port, min(port + PORTS_TRIED, 65_536)) if port and here else [port]:
        listener = listening_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(backlog)
            return listener
        except OSError as error:
            listener.close()
            if not here or error.errno not in PASSED_OVER:
                raise LabError(
                    "no-port",
                    field="--host",
                    value=f"{host}:{candidate}",
                    message=f"{host}:{candidate} cannot be listened on: {error.strerror or error}.",
                    mend="Name an address of this machine and a free port.",
                ) from error
    raise LabError(
        "no-port",
        field="--port",
        value=port,
        message=f"Ports {port} to {min(port + PORTS_TRIED, 65_536) - 1} are all taken.",
        mend=f"Name a free one: {command} --port 9100",
    )


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
