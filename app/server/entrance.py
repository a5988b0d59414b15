"""Who is let into the lab: a browser that opened the address the lab printed, or a program that can read ``lab.json``.

Everybody with an account on this machine can reach 127.0.0.1, so the address alone opens nothing. Three things do:

- a **ticket**, in an address that is printed; it works once and is exchanged for the cookie;
- the **cookie**, signed with a secret of the store, so that a page that is open outlives a restart of the lab;
- the lab's **token** (``lab.json``, readable by its owner only), as ``Authorization: Bearer`` or pasted into the
sign-in page.

While a room is open (``app/room``) its two links open the lab as well, as often as they are used: the presenter's as
the owner's does, the viewers' for viewers. Each is exchanged for a cookie that says who came and ends with the room.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel

from app.home import Home
from app.locks import LabAddress
from app.rights import A_STRANGER, OWNER, THE_OWNER, VIEWER, Headers, Right, Visitor
from app.server.guard import header_values
from app.server.public import Public
from app.server.rate import Rate
from telemetry.json_file import read_as, write_json

COOKIE_S = 30 * 86_400
ROOM_COOKIE_S = 16 * 3600
MOST_TICKETS = 256  # that wait to be used; the oldest go first
TICKET = "token"  # the name in the address
SECRET_BYTES = 32
JOINS_PER_S, JOINS_AT_ONCE = 5.0, 100  # a class that opens the link at once gets in; a script waits
WRONG_PER_S, WRONG_AT_ONCE = 2.0, 60

if TYPE_CHECKING:
    from app.room.room import Room


class Crowded(Exception):
    """Too many came at once: come back in some seconds."""


class Entrance:
    """Tickets, cookie and token of one lab. ``open_to_all``: nobody is asked for anything. Safe to use from any
    thread.
    """

    def __init__(
        self,
        address: LabAddress,
        secret: bytes | None = None,
        *,
        open_to_all: bool = False,
        public: Public | None = None,
    ) -> None:
        self.open_to_all = open_to_all
        self.public = public or Public()
        self._address = address
        self._secret = secret or secrets.token_bytes(SECRET_BYTES)
        self._cookie = hmac.digest(self._secret, b"servescope page", "sha256").hex()
        self._tickets: deque[str] = deque(maxlen=MOST_TICKETS)
        self._lock = threading.Lock()
        self._joins = Rate(JOINS_PER_S, JOINS_AT_ONCE)
        self._wrong = Rate(WRONG_PER_S, WRONG_AT_ONCE)
        self.room: Room | None = None

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

    def room_address(self, token: str) -> str:
        """The address that one of the room's tokens opens: the public one where the lab has one."""
        return f"{self.public.url or self._address.url}/?{TICKET}={token}"

    def let_in(self, offered: str, headers: Headers) -> str | None:
        """The value of a ``Set-Cookie`` header for who offers this: a ticket, the lab's token, or one of the room's
        links. None where it opens nothing. Raises ``Crowded``.
        """
        if self.accepts(offered):
            return self.set_cookie()
        room = self._open_room()
        if room is not None and _same(offered, room.kept.presenters_token):
            return self._room_cookie(room, OWNER, secrets.token_hex(8))
        if room is not None and _same(offered, room.kept.viewers_token):
            known = self.visitor_of(headers)
            if known is None and not self._joins.take():
                raise Crowded
            return self._room_cookie(room, VIEWER, known.member if known and known.member else secrets.token_hex(8))
        if self.visitor_of(headers) is None and not self._wrong.take():
            raise Crowded
        return None

    def admits(self, headers: Headers) -> bool:
        """Whether a request with these headers comes from a browser that was let in, or carries the token."""
        return self.visitor_of(headers) is not None

    def visitor_of(self, headers: Headers) -> Visitor | None:
        """Who sent a request with these headers; None for somebody who was not let in."""
        if self.open_to_all:
            return THE_OWNER
        if has_bearer(headers, self._address.token):
            return THE_OWNER
        if any(_same(value, self._cookie) for value in _cookies(headers, self.cookie_name)):
            return THE_OWNER
        room = self._open_room()
        if room is None:
            return None
        for value in _cookies(headers, self.room_cookie_name):
            role, _, rest = value.partition(".")
            member, _, mac = rest.partition(".")
            if role in (OWNER, VIEWER) and _same(mac, self._mac(room, role, member)):
                return Visitor(role, member)
        return None

    @property
    def room_cookie_name(self) -> str:
        return f"{self.cookie_name}-room"

    def set_cookie(self) -> str:
        """The ``Set-Cookie`` header for a browser that is let in."""
        return f"{self.cookie_name}={self._cookie}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Strict"

    def _room_cookie(self, room: Room, role: str, member: str) -> str:
        value = f"{role}.{member}.{self._mac(room, role, member)}"
        return f"{self.room_cookie_name}={value}; Path=/; Max-Age={ROOM_COOKIE_S}; HttpOnly; SameSite=Strict"

    def _mac(self, room: Room, role: str, member: str) -> str:
        return hmac.digest(self._secret, f"servescope {room.room_id} {role} {member}".encode(), "sha256").hex()

    def _open_room(self) -> Room | None:
        return self.room if self.room is not None and not self.room.is_over else None


class RoomJudge:
    """Tells pages who their visitor is (``app.rights``)."""

    def __init__(self, entrance: Entrance, room: Room) -> None:
        self._entrance, self._room = entrance, room

    def visitor_of(self, headers: Headers) -> Visitor:
        return self._entrance.visitor_of(headers) or A_STRANGER

    def rights_of_viewers(self) -> frozenset[Right]:
        return frozenset({Right.START} if self._room.kept.viewers_may_start and not self._room.is_over else ())


class _Kept(BaseModel):
    secret: str


def entrance_of(
    home: Home, address: LabAddress, *, open_to_all: bool = False, public: Public | None = None
) -> Entrance:
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
    return Entrance(address, secret, open_to_all=open_to_all, public=public)


def has_bearer(headers: Headers, token: str) -> bool:
    """Whether ``Authorization: Bearer TOKEN`` stands there."""
    for value in header_values(headers, b"authorization"):
        scheme, _, offered = value.partition(" ")
        if scheme.lower() == "bearer" and _same(offered.strip(), token):
            return True
    return False


def _cookies(headers: Headers, name: str) -> list[str]:
    """Every value of a cookie that came."""
    pairs = (part.strip().partition("=") for value in header_values(headers, b"cookie") for part in value.split(";"))
    return [value for key, _, value in pairs if key == name]


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
