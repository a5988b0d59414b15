"""Connections are fewer than file descriptors: whoever asks nothing makes room for who asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from app.errors import LabError
from app.server import connections
from app.server.connections import BoundedHttp, listener_at
from tests.apart import apart
from tests.app.lab_process import free_port
from tests.app.small_runs import wait_for


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(connections, "FIRST_REQUEST_S", 1.0)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    server = uvicorn.Server(uvicorn.Config(answer, http=BoundedHttp, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return client.makefile("rb").read()


def is_open(client: socket.socket) -> bool:
    client.settimeout(0.05)
    try:
        return client.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def test_half_open_connections_beyond_the_bound_end_the_longest_silent(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as held, caplog.at_level(logging.WARNING):
        for _ in range(100):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET / HTTP/1.1\r\nhos")
        assert ask(port).endswith(b"ok")
    assert not caplog.records


def test_a_connection_that_asks_nothing_is_let_go(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        wait_for(lambda: not is_open(client))


def test_one_that_has_asked_stays(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client, contextlib.ExitStack() as held:
        for strangers in (0, 20):
            for _ in range(strangers):
                held.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok"):
                more = client.recv(1000)
                assert more
                answer += more


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm is off on what is accepted: with it on every second answer comes 40 ms late."""

    async def nodelay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            accepted.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listener_at("127.0.0.1", 0, "servescope lab", 8) as listener:
            async with await asyncio.start_server(connected, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                told = await accepted
                writer.close()
                return told

    assert apart(lambda: asyncio.run(nodelay())) == 1


def test_a_port_that_cannot_be_had_is_said_with_what_to_name_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PORTS_TRIED", 2)
    port = free_port()
    with listener_at("127.0.0.1", port, "servescope serve", 8), listener_at("127.0.0.1", port, "servescope serve", 8):
        with pytest.raises(LabError) as refused:
            listener_at("127.0.0.1", port, "servescope serve", 8)
        assert (refused.value.field, refused.value.value) == ("--port", port)
        assert "servescope serve --port" in refused.value.mend
    with pytest.raises(LabError) as elsewhere:
        listener_at("192.0.2.1", port, "servescope serve", 8)
    assert (elsewhere.value.field, elsewhere.value.value) == ("--host", f"192.0.2.1:{port}")
