"""The gate of the lab: one ASGI middleware behind the guard that asks every request for the cookie or the token.

What needs neither: health, for scripts; ``/metrics``, for Prometheus (figures of the newest run, no text of anybody);
and the sign-in page, which a browser without a cookie is shown wherever it goes.
"""

from __future__ import annotations

import html
import json
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl, urlencode

from app.server.entrance import TICKET, Entrance, ticket_in
from app.server.guard import header_values
from telemetry.refusal import error_object

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/health", "/healthz", "/metrics"})
SIGN_IN = "/sign-in"
LARGEST_FORM = 8192
SPENT = "That address has been used already: each works once. Use one of the ways below."
SIGNED_OUT = "This browser has no key to the lab any more. Load the page again to sign in."
WRONG = "That is no token of this lab, or an address that has been used already."
REFUSAL = error_object(
    "bad-token",
    None,
    None,
    "This lab asks for its token.",
    "Open the address that servescope lab printed, or give the token from lab.json as Authorization: Bearer.",
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"


class Gate:
    """ASGI middleware in front of every route, Streamlit's and ours."""

    def __init__(self, app: ASGIApp, entrance: Entrance) -> None:
        self.app = app
        self.entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self.entrance.open_to_all:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.entrance.admits(scope["headers"]):
            await self.app(scope, receive, send)
        else:  # closing before accepting makes the server answer the handshake with 403
            await send({"type": "websocket.close", "code": 1008, "reason": REFUSAL["message"]})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        if path in OPEN_PATHS and method in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        if path == SIGN_IN and method == "POST":
            await self._sign_in(receive, send)
            return
        offered = _offered(scope) if method == "GET" else None
        if offered is not None:
            if self.entrance.accepts(offered):
                await _go(send, _without_ticket(scope), self.entrance.set_cookie())
            elif self.entrance.admits(headers):  # the address once more, by reload or from the history
                await _go(send, _without_ticket(scope))
            else:
                await _page(send, _without_ticket(scope), SPENT)
        elif path == SIGN_IN:
            await (_go(send, "/") if self.entrance.admits(headers) else _page(send, "/"))
        elif self.entrance.admits(headers):
            await self.app(scope, receive, send)
        elif any("text/html" in value for value in header_values(headers, b"accept")):
            if "cross-site" in header_values(headers, b"sec-fetch-site"):
                await _again(send)  # a link on another site: a strict cookie comes only with a request of our own
            else:
                await _page(send, _without_ticket(scope))
        elif path.startswith("/api/"):
            await _answer(send, 401, json.dumps({"error": REFUSAL}), b"application/json")
        else:  # what a page that is open asks for; Streamlit shows the answer in a dialog where it is JSON
            await _answer(send, 401, json.dumps(SIGNED_OUT), b"application/json")

    async def _sign_in(self, receive: Receive, send: Send) -> None:
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
        if self.entrance.accepts(ticket_in(form.get(TICKET, [""])[0])):
            await _go(send, target if _is_ours(target) else "/", self.entrance.set_cookie())
        else:
            await _page(send, target if _is_ours(target) else "/", WRONG)


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


async def _go(send: Send, target: str, cookie: str | None = None) -> None:
    more = [(b"location", target.encode()), *([(b"set-cookie", cookie.encode())] if cookie else [])]
    await _answer(send, 303, "", b"text/plain", more)


async def _page(send: Send, target: str, problem: str = "") -> None:
    """The page that says how to get in and goes on to ``target`` afterwards."""
    text = files(__package__).joinpath("sign-in.html").read_text(encoding="utf-8")
    told = f'<p class="problem" role="alert">{html.escape(problem)}</p>' if problem else ""
    page = text.replace("<!--problem-->", told).replace("{{next}}", html.escape(target))
    await _answer(send, 401, page, b"text/html; charset=utf-8", [(b"content-security-policy", POLICY.encode())])


async def _again(send: Send) -> None:
    page = '<!doctype html><meta http-equiv="refresh" content="0"><title>ServeScope</title>'
    await _answer(send, 401, page, b"text/html; charset=utf-8", [(b"content-security-policy", POLICY.encode())])


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
