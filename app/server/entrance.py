"""Who is let into the lab: a browser that opened the address the lab printed, or a program that can read ``lab.json``.

Everybody with an account on this machine can reach 127.0.0.1, so the address alone opens nothing. Three things do:

- a **ticket**, in an address that is printed; it works once and is exchanged for the cookie;
- the **cookie**, signed with a secret of the store, so that a page that is open outlives a restart of the lab;
- the lab's **token** (``lab.json``, readable by its owner only), as ``Authorization: Bearer`` or pasted into the
sign-in page.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel

from app.home import Home
from app.locks import LabAddress
from app.server.guard import header_values
from telemetry.json_file import read_as, write_json

COOKIE_S = 30 * 86_400
MOST_TICKETS = 256  # that wait to be used; the oldest go first
TICKET = "token"  # the name in the address
SECRET_BYTES = 32
Headers = Iterable[tuple[bytes, bytes]]


class Entrance:
    """Tickets, cookie and token of one lab. ``open_to_all``: nobody is asked for anything. Safe to use from any
    thread.
    """

    def __init__(self, address: LabAddress, secret: bytes | None = None, *, open_to_all: bool = False) -> None:
        self.open_to_all = open_to_all
        self._address = address
        self._cookie = hmac.digest(secret or secrets.token_bytes(SECRET_BYTES), b"servescope page", "sha256").hex()
        self._tickets: deque[str] = deque(maxlen=MOST_TICKETS)
        self._lock = threading.Lock()

    @property
    def cookie_name(self) -> str:
        """Browsers send a cookie to every port of a host, so the name tells two labs apart."""
        return f"servescope-{self._address.port}"

    def page_address(self) -> str:
        """An address that lets one browser in, once."""
        if self.open_to_all:
            return self._address.url
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            self._tickets.append(ticket)
        return f"{self._address.url}/?{TICKET}={ticket}"

    def accepts(self, offered: str) -> bool:
        """Whether this is an unused ticket (which is used up by asking) or the lab's token."""
        with self._lock:
            fitting = [ticket for ticket in self._tickets if _same(offered, ticket)]
            for ticket in fitting:
                self._tickets.remove(ticket)
        return bool(fitting) or _same(offered, self._address.token)

    def admits(self, headers: Headers) -> bool:
        """Whether a request with these headers comes from a browser that was let in, or carries the token."""
        if self.open_to_all:
            return True
        return self._has_cookie(headers) or has_bearer(headers, self._address.token)

    def set_cookie(self) -> str:
        """The ``Set-Cookie`` header for a browser that is let in."""
        return f"{self.cookie_name}={self._cookie}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Strict"

    def _has_cookie(self, headers: Headers) -> bool:
        pairs = (
            part.strip().partition("=") for value in header_values(headers, b"cookie") for part in value.split(";")
        )
        return any(_same(value, self._cookie) for name, _, value in pairs if name == self.cookie_name)


class _Kept(BaseModel):
    secret: str


def entrance_of(home: Home, address: LabAddress, *, open_to_all: bool = False) -> Entrance:
    """The entrance of a store's lab. Its secret is kept in the store, readable by its owner only; a damaged one is made
    anew.
    """
    try:
        secret = bytes.fromhex(read_as(_Kept, home.entrance_file).secret)
    except (FileNotFoundError, ValueError):
        secret = b""
    if len(secret) != SECRET_BYTES:
        secret = secrets.token_bytes(SECRET_BYTES)
        with contextlib.suppress(OSError):  # a full disk: the cookie then ends with the lab
            write_json(home.entrance_file, {"secret": secret.hex()}, mode=0o600)
    return Entrance(address, secret, open_to_all=open_to_all)


def has_bearer(headers: Headers, token: str) -> bool:
    """Whether ``Authorization: Bearer TOKEN`` stands there."""
    for value in header_values(headers, b"authorization"):
        scheme, _, offered = value.partition(" ")
        if scheme.lower() == "bearer" and _same(offered.strip(), token):
            return True
    return False


def ticket_in(text: str) -> str:
    """What a person pasted: a token, or a whole address with one."""
    text = text.strip()
    if "://" not in text:
        return text
    try:
        return parse_qs(urlsplit(text).query).get(TICKET, [""])[0]
    except ValueError:
        return ""


def _same(one: str, other: str) -> bool:
    """Equality that takes the same time wherever the two first differ."""
    return hmac.compare_digest(one.encode(), other.encode())
