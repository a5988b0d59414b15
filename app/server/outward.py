"""How a lab is reached from other machines: only where somebody asks for it, and then with all that this takes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import LabError
from app.server.connections import listening_socket
from app.server.guard import host_name
from app.server.public import Public, public_of

if TYPE_CHECKING:
    import uvicorn


@dataclass(frozen=True)
class Outward:
    """``address`` and ``port``: where it listens beyond 127.0.0.1; "" for nowhere. ``certificate``, ``key``: its files
    for TLS; "" where a proxy speaks TLS before it.
    """

    public: Public = field(default_factory=Public)
    hosts: tuple[str, ...] = ()
    address: str = ""
    port: int = 0
    certificate: str = ""
    key: str = ""


def outward_of(
    *,
    listen: str = "",
    url: str = "",
    hosts: Iterable[str] = (),
    certificate: str = "",
    key: str = "",
    behind_proxy: bool = False,
    token: bool = True,
    workshop: bool = False,
) -> Outward:
    """What the options of ``servescope lab`` ask for. Raises ``LabError`` where something is missing that it takes."""
    named = tuple(hosts)
    if bool(certificate) != bool(key):
        given, lacking = ("--tls-cert", "--tls-key") if certificate else ("--tls-key", "--tls-cert")
        raise _refused(lacking, "", f"{given} is given without {lacking}.", "Give both, or neither.")
    if not listen and (certificate or behind_proxy):
        given = "--tls-cert" if certificate else "--behind-proxy"
        raise _refused(
            "--listen", "", f"{given} is of no use on 127.0.0.1.", "Add --listen 0.0.0.0:8443, or leave it out."
        )
    public = public_of(url) if url else Public()
    if public.host:
        named = (host_name(public.host), *named)
    if not token and workshop:
        told = "A workshop tells its presenter from its viewers by their links."
        raise _refused("--no-token", "", told, "Leave --no-token out.")
    if not token and (listen or url):
        raise _refused("--no-token", "", "A lab that others can reach asks for its token.", "Leave --no-token out.")
    if not listen:
        return Outward(public=public, hosts=named)
    address, port = _place(listen)
    if not named:
        raise _refused(
            "--allow-host",
            "",
            "--listen takes the name that browsers ask for.",
            "Add --allow-host lab.example.org, once for each name or address.",
        )
    if not certificate and not behind_proxy:
        raise _refused(
            "--tls-cert",
            "",
            "Beyond this machine, links and answers would go over the network in the clear.",
            "Give --tls-cert and --tls-key, or --behind-proxy where a proxy speaks TLS before the lab.",
        )
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        if path and not Path(path).is_file():
            raise _refused(option, path, f"There is no file {path}.", "Name a PEM file.")
    scheme = "https" if certificate or behind_proxy else "http"
    shown = f"[{named[0]}]" if ":" in named[0] else named[0]
    public = public if public.host else Public(scheme, shown if behind_proxy else f"{shown}:{port}")
    return Outward(public, named, address, port, certificate, key)


@contextlib.contextmanager
def listen(outward: Outward) -> Iterator[socket.socket | None]:
    """The socket that listens beyond this machine; None where nothing asks for one. Raises ``LabError``."""
    if not outward.address:
        yield None
        return
    family = socket.AF_INET6 if ":" in outward.address else socket.AF_INET
    with listening_socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((outward.address, outward.port))
            listener.listen(128)
        except (OSError, OverflowError) as error:
            place = f"{outward.address}:{outward.port}"
            why = getattr(error, "strerror", None) or error
            raise _refused(
                "--listen",
                place,
                f"{place} cannot be listened on: {why}.",
                "Name an address of this machine and a free port.",
            ) from error
        yield listener


def run_both(server: uvicorn.Server, here: socket.socket, second: uvicorn.Server, beyond: socket.socket) -> None:
    """Run the lab's server and its outward one until the first is ended; the first has the lab's start and stop."""

    async def both() -> None:
        outside = asyncio.create_task(_after(server, second, beyond))
        try:
            await server.serve([here])
        finally:
            second.should_exit = True
            await outside

    asyncio.run(both())


async def _after(server: uvicorn.Server, second: uvicorn.Server, beyond: socket.socket) -> None:
    while not server.started and not server.should_exit:
        await asyncio.sleep(0.02)
    if not server.should_exit:
        second.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # the first has them
        await second.serve([beyond])


def _place(listen: str) -> tuple[str, int]:
    address, _, port = listen.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise _refused("--listen", listen, f"{listen!r} is no address with a port.", "Such as --listen 0.0.0.0:8443")
    return address.strip("[]"), int(port)


def _refused(field: str, value: str, message: str, mend: str) -> LabError:
    return LabError("bad-option", field=field, value=value[:200], message=message, mend=mend)
