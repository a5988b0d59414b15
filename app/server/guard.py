"""Who may talk to the lab: the browser on this machine, and pages the lab served itself.

One ASGI middleware in front of every route, Streamlit's and ours. It refuses

- a ``Host`` that is not this machine's (a foreign name made to resolve to 127.0.0.1 would let a web page in);
- an ``Origin`` that is not exactly the host that was asked, or the address that a proxy hands out (another site,
  another port, a file, a sandboxed frame);
- a subresource or fetch that the browser itself marks as coming from another site.

Refused: HTTP 403, or a WebSocket handshake that is turned down. Answers carry headers that forbid framing and sniffing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
SECURITY_HEADERS = (
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """ASGI middleware. ``allowed_hosts``: host names without port that may stand in ``Host``. ``origin``: that of the
    address under which a proxy hands the lab out, whose pages carry a port that the proxy may leave out of ``Host``.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = LOOPBACK_HOSTS, origin: str = "") -> None:
        self.app = app
        self.origin = origin.lower()
        self.allowed_hosts = frozenset(host.lower().strip("[]") for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        reason = self.refusal(scope["headers"])
        if reason is None:
            await self.app(scope, receive, _with_security_headers(send))
        elif scope["type"] == "websocket":
            # Closing before accepting makes the server answer the handshake with 403.
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await _refuse(send, reason)

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Why a request with these headers is turned down; None if it may pass."""
        hosts = header_values(headers, b"host")
        if len(hosts) != 1:
            return "Give exactly one Host header."
        host = hosts[0].lower()
        if host_name(host) not in self.allowed_hosts:
            return "This host name is not the lab's. Open the address the lab printed, or start it with --allow-host."
        origins = header_values(headers, b"origin")
        if len(origins) > 1 or (origins and not (same_origin(origins[0], host) or self._is_own(origins[0], host))):
            return "This page may not talk to the lab: it comes from another origin."
        cross_site = "cross-site" in header_values(headers, b"sec-fetch-site")
        if cross_site and "navigate" not in header_values(headers, b"sec-fetch-mode"):
            return "Another site's page may not load parts of the lab."
        return None

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether a page of the proxy's address asks by its name."""
        return origin.lower() == self.origin and host_name(host) == host_name(self.origin.partition("://")[2])


def host_name(host: str) -> str:
    """The name in a ``Host`` header, without port and brackets; "" if it is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if "@" not in host and "/" not in host else ""
    except ValueError:
        return ""


def same_origin(origin: str, host: str) -> bool:
    """Whether an ``Origin`` header names the host (and port) that was asked."""
    scheme, separator, rest = origin.lower().partition("://")
    return bool(separator) and scheme in ("http", "https") and rest == host


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Every value of a header, in the order in which they came."""
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


def _with_security_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {key.lower() for key, _ in message.get("headers", ())}
            added = [pair for pair in SECURITY_HEADERS if pair[0] not in present]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sending


async def _refuse(send: Send, reason: str) -> None:
    body = reason.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *SECURITY_HEADERS,
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
