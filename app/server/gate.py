"""The gate of the lab: one ASGI middleware behind the guard that asks every request for the cookie or the token.

A viewer of a room passes for what viewers need: pages and their files by GET, and three kinds of sockets. Every other
method and socket is refused here, whatever stands behind it.

What needs neither: health, for scripts; ``/metrics``, for Prometheus (figures of the newest run, no text of anybody);
and the sign-in page, which a browser without a cookie is shown wherever it goes.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl, urlencode

from app.rights import Visitor
from app.server.entrance import TICKET, Crowded, Entrance, ticket_in
from app.server.guard import header_values
from telemetry.refusal import error_object

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/health", "/healthz", "/metrics"})
SIGN_IN = "/sign-in"
LARGEST_FORM = 8192
SPENT = (
    "That address opens nothing: it has been used already, or it is of a workshop that is over. Ask for today's link, "
    "or use one of the ways below."
)
SIGNED_OUT = "This browser has no key to the lab any more. Load the page again to sign in."
WRONG = "That is no token of this lab, or an address that has been used already."
REFUSAL = error_object(
    "bad-token",
    None,
    None,
    "This lab asks for its token.",
    "Open the address that servescope lab printed, or give the token from lab.json as Authorization: Bearer.",
)
VIEWERS_METHODS = ("GET", "HEAD")
VIEWERS_SOCKETS = ("/_stcore/stream", "/live", "/room-channel")
MOST_SOCKETS_OF_VIEWER = 12
MOST_SOCKETS_OF_VIEWERS = 360  # together, so that the presenter finds room (``connections.MOST_CONNECTIONS``)
VISITOR = "servescope.visitor"  # who asks, in the scope of what is let through
NOT_FOR_VIEWERS = error_object(
    "not-allowed", "role", "viewer", "Viewers of a room may not do this.", "The presenter can."
)
CROWDED = "Too many are coming in at this moment. This page tries again by itself."
COME_BACK_S = 5
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"


class Gate:
    """ASGI middleware in front of every route, Streamlit's and ours."""

    def __init__(self, app: ASGIApp, entrance: Entrance) -> None:
        self.app = app
        self.entrance = entrance
        self._sockets: Counter[str] = Counter()  # of viewers, by member

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self.entrance.open_to_all:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        who = self.entrance.visitor_of(scope["headers"])
        if who is None:  # closing before accepting makes the server answer the handshake with 403
            await send({"type": "websocket.close", "code": 1008, "reason": REFUSAL["message"]})
        elif not who.is_viewer:
            await self.app({**scope, VISITOR: who}, receive, send)
        elif not self._takes(scope["path"], who):
            await send({"type": "websocket.close", "code": 1008, "reason": NOT_FOR_VIEWERS["message"]})
        else:
            self._sockets[who.member] += 1
            try:
                await self.app({**scope, VISITOR: who}, receive, send)
            finally:
                self._sockets[who.member] -= 1
                if not self._sockets[who.member]:
                    del self._sockets[who.member]

    def _takes(self, path: str, who: Visitor) -> bool:
        """Whether a viewer may open one more socket, and this one."""
        few = self._sockets[who.member] < MOST_SOCKETS_OF_VIEWER and self._sockets.total() < MOST_SOCKETS_OF_VIEWERS
        return few and path in VIEWERS_SOCKETS

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        if path in OPEN_PATHS and method in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        if path == SIGN_IN and method == "POST":
            await self._sign_in(scope, receive, send)
            return
        offered = _offered(scope) if method == "GET" else None
        if offered is not None:
            await self._offer(scope, send, offered)
            return
        who = self.entrance.visitor_of(headers)
        if who is not None and path == SIGN_IN:
            await self._go(scope, send, "/")
        elif path == SIGN_IN:
            await self._page(scope, send, "/")
        elif who is not None and who.is_viewer and (method not in VIEWERS_METHODS or path.startswith("/api/")):
            await _answer(send, 403, json.dumps({"error": NOT_FOR_VIEWERS}), b"application/json")
        elif who is not None:
            await self.app({**scope, VISITOR: who}, receive, send)
        elif any("text/html" in value for value in header_values(headers, b"accept")):
            if "cross-site" in header_values(headers, b"sec-fetch-site"):
                await _again(send)  # a link on another site: a strict cookie comes only with a request of our own
            else:
                await self._page(scope, send, _without_ticket(scope))
        elif path.startswith("/api/"):
            await _answer(send, 401, json.dumps({"error": REFUSAL}), b"application/json")
        else:  # what a page that is open asks for; Streamlit shows the answer in a dialog where it is JSON
            await _answer(send, 401, json.dumps(SIGNED_OUT), b"application/json")

    async def _offer(self, scope: Scope, send: Send, offered: str) -> None:
        """Answer an address with a token in it."""
        try:
            cookie = self.entrance.let_in(offered, scope["headers"])
        except Crowded:
            await _crowded(send)
            return
        if cookie is not None:
            await self._go(scope, send, _without_ticket(scope), cookie)
        elif self.entrance.admits(scope["headers"]):  # the address once more, by reload or from the history
            await self._go(scope, send, _without_ticket(scope))
        else:
            await self._page(scope, send, _without_ticket(scope), SPENT)

    async def _go(self, scope: Scope, send: Send, target: str, cookie: str | None = None) -> None:
        """Redirect to a path of ours; where a proxy has taken off what stands before it, with that."""
        public = self.entrance.public
        by_proxy = public.is_asked_by(scope["headers"])
        more = [(b"location", f"{public.base if by_proxy else ''}{target}".encode())]
        if cookie is not None:
            secure = "; Secure" if scope.get("scheme") == "https" or (by_proxy and public.is_secure) else ""
            more.append((b"set-cookie", f"{cookie}{secure}".encode()))
        await _answer(send, 303, "", b"text/plain", more)

    async def _page(self, scope: Scope, send: Send, target: str, problem: str = "") -> None:
        """The page that says how to get in and goes on to ``target`` afterwards."""
        public = self.entrance.public
        base = public.base if public.is_asked_by(scope["headers"]) else ""
        text = files(__package__).joinpath("sign-in.html").read_text(encoding="utf-8")
        told = f'<p class="problem" role="alert">{html.escape(problem)}</p>' if problem else ""
        page = text.replace("<!--problem-->", told).replace("{{next}}", html.escape(target))
        page = page.replace("{{base}}", html.escape(base))
        await _answer(send, 401, page, b"text/html; charset=utf-8", [(b"content-security-policy", POLICY.encode())])

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > LARGEST_FORM or not message.get("more_body"):
                break
        try:
            form = parse_qs(body[:LARGEST_FORM].decode())
        except ValueError:
            form = {}
        target = form.get("next", ["/"])[0]
        try:
            cookie = self.entrance.let_in(ticket_in(form.get(TICKET, [""])[0]), scope["headers"])
        except Crowded:
            await _crowded(send)
            return
        if cookie is not None:
            await self._go(scope, send, target if _is_ours(target) else "/", cookie)
        else:
            await self._page(scope, send, target if _is_ours(target) else "/", WRONG)


def _offered(scope: Scope) -> str | None:
    """The ticket in the address; None without one."""
    return parse_qs(scope["query_string"].decode("latin-1")).get(TICKET, [None])[0]


def _without_ticket(scope: Scope) -> str:
    """Path and query of the address that was asked for, less the ticket; "/" where a redirect could lead elsewhere."""
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = urlencode([(name, value) for name, value in pairs if name != TICKET])
    path = scope.get("raw_path", b"/").decode("latin-1").partition("?")[0]
    return (path if _is_ours(path) else "/") + (f"?{kept}" if kept else "")


def _is_ours(target: str) -> bool:
    """Whether a redirect to it stays here: a path, printable, and nothing that a browser reads as
    ``//another.host``.
    """
    return target.startswith("/") and target[1:2] not in ("/", "\\") and target.isascii() and target.isprintable()


async def _again(send: Send) -> None:
    page = '<!doctype html><meta http-equiv="refresh" content="0"><title>ServeScope</title>'
    await _answer(send, 401, page, b"text/html; charset=utf-8", [(b"content-security-policy", POLICY.encode())])


async def _crowded(send: Send) -> None:
    page = (
        f'<!doctype html><html lang="en"><meta http-equiv="refresh" content="{COME_BACK_S}"><title>ServeScope</title>'
        f"<p>{CROWDED}</p>"
    )
    more = [(b"content-security-policy", POLICY.encode()), (b"retry-after", str(COME_BACK_S).encode())]
    await _answer(send, 429, page, b"text/html; charset=utf-8", more)


async def _answer(
    send: Send, status: int, text: str, kind: bytes, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = text.encode()
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *(more or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
