"""Addresses of engines to watch: what they may look like, and that they lie on this machine unless somebody at the
command line says otherwise.

Whoever names an address has this process read from it, so viewers of a room may not name any, redirects are not
followed, and a name other than localhost is not looked up to find out where it leads.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from app.errors import LabError
from app.rights import Right, require, visitor

LONGEST_IPC = 107  # bytes of a Unix socket's path


@dataclass(frozen=True)
class Watched:
    """What to watch of one engine."""

    url: str  # http(s)://HOST:PORT[/PATH], without /metrics
    kv_events: str = ""  # tcp:// or ipc://
    fpm: str = ""
    kv_replay: str = ""  # where lost batches of kv_events are asked for again
    spans: int | None = None  # port of 127.0.0.1 to listen at; 0: any


def watched_at(
    url: str, kv_events: str = "", fpm: str = "", kv_replay: str = "", spans: int | None = None, *, beyond: bool = False
) -> Watched:
    """Check addresses. ``beyond``: they may lie on other machines.

    Raises ``LabError`` naming the option, its value and what is right; and for a viewer, whatever they name.
    """
    require(Right.START)
    if visitor().is_viewer:
        raise LabError(
            "not-allowed",
            field="role",
            value="viewer",
            message="Viewers of a room may not name addresses that this machine then reads from.",
            mend="The presenter can.",
        )
    if kv_replay and not kv_events:
        _refuse(
            "--kv-replay", kv_replay, "There is no publisher whose batches could be lost.", "Give --kv-events, too."
        )
    if spans is not None and not 0 <= spans <= 65535:
        _refuse("--spans", str(spans), "This is no port.", "Give one from 1 to 65535, or 0 for any that is free.")
    return Watched(
        _web_address(url, beyond),
        _socket_address("--kv-events", kv_events, beyond) if kv_events else "",
        _socket_address("--fpm", fpm, beyond) if fpm else "",
        _socket_address("--kv-replay", kv_replay, beyond) if kv_replay else "",
        spans,
    )


def _web_address(url: str, beyond: bool) -> str:
    parts = _split("URL", url, "Such as http://127.0.0.1:8000")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        _refuse("URL", url, "This is no address of a server.", "Such as http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        _refuse("URL", url, "An address here has no user, password, query or fragment.", "Leave them out.")
    _check_host("URL", url, parts.hostname or "", beyond)
    return url.strip().rstrip("/").removesuffix("/metrics").removesuffix("/v1").rstrip("/")


def _socket_address(option: str, address: str, beyond: bool) -> str:
    right = "Such as tcp://127.0.0.1:5557 or ipc:///tmp/engine"
    parts = _split(option, address, right)
    if parts.scheme == "ipc":
        path = address.removeprefix("ipc://")
        if not path.startswith("/") or len(path.encode()) > LONGEST_IPC or "\0" in path:
            _refuse(option, address, f"An ipc address is an absolute path of at most {LONGEST_IPC} bytes.", right)
        if Path(path).exists() and not Path(path).is_socket():
            _refuse(option, address, "There is something else than a socket.", right)
        return address
    if parts.scheme != "tcp" or not parts.hostname or parts.path or parts.query or parts.username is not None:
        _refuse(option, address, "This is no address of a ZeroMQ publisher.", right)
    if _port(option, address, right) is None:
        _refuse(option, address, "The port is missing.", right)
    _check_host(option, address, parts.hostname or "", beyond)
    return address


def _split(option: str, address: str, right: str):  # type: ignore[no-untyped-def]  # urllib's own type is private
    if len(address) > 2000 or any(ord(character) <= 32 for character in address.strip()):
        _refuse(option, address[:200], "This is no address.", right)
    try:
        parts = urlsplit(address.strip())
        _ = parts.port
    except ValueError as error:
        _refuse(option, address, f"This is no address ({error}).", right)
    return parts


def _port(option: str, address: str, right: str) -> int | None:
    port: int | None = _split(option, address, right).port
    return port


def _check_host(option: str, address: str, host: str, beyond: bool) -> None:
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        number = None
    if host == "localhost" or (number is not None and number.is_loopback):
        return
    if not beyond:
        _refuse(
            option,
            address,
            f"{host} is not this machine's own interface.",
            "If it is meant, allow it at the command line: servescope attach ... --beyond-this-machine",
        )
    if number is not None and (number.is_link_local or number.is_multicast or number.is_unspecified):
        _refuse(option, address, f"No engine is served at {host}.", "Name the address of a machine.")


def _refuse(option: str, address: str, message: str, mend: str) -> NoReturn:
    raise LabError("bad-option", field=option, value=address[:200], message=message, mend=mend)
