"""Whoever has only the lab's address gets nothing: without cookie or token every route refuses, other users of the machine too."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.home import Home
from app.server.client import page_address
from tests.app.lab_process import LabProcess, lab_on, servescope
from tests.app.lab_process import http as fetch
from tests.app.lab_routes import ROUTES
from tests.app.small_runs import small_spec


@pytest.fixture(scope="module")
def lab() -> Iterator[LabProcess]:
    """On a folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with lab_on(Home(Path(folder))) as running:
            yield running


def test_no_route_answers_who_has_neither_cookie_nor_token(lab: LabProcess) -> None:
    wrong = [{}, {"Cookie": f"servescope-{lab.address.port}=x"}, {"Authorization": "Bearer x"}, {"Accept": "text/html"}]
    for method, path in ROUTES:
        for headers in wrong:
            status = asked_as_anybody(lab.address.port, method, path, headers)
            assert status == expected_of_a_stranger(method, path), (method, path, headers)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_is_refused_by_every_route_and_cannot_read_the_keys(lab: LabProcess) -> None:
    port, files = lab.address.port, [str(lab.home.lab_file), str(lab.home.entrance_file)]

    def stranger() -> dict[str, Any]:
        status = {f"{method} {path}": asked_as_anybody(port, method, path, {}) for method, path in ROUTES}
        return {"uid": os.getuid(), "status": status, "readable": [name for name in files if os.access(name, os.R_OK)]}

    seen = as_another_user(stranger)
    assert seen["uid"] != os.geteuid()
    assert seen["status"] == {f"{method} {path}": expected_of_a_stranger(method, path) for method, path in ROUTES}
    assert seen["readable"] == []


def test_metrics_tell_strangers_no_secret(lab: LabProcess) -> None:
    lab.submit(small_spec())
    _, body = fetch(lab.address, "/metrics")
    for secret in (lab.address.token, json.loads(lab.home.entrance_file.read_text())["secret"], str(lab.home.root)):
        assert secret not in body


def expected_of_a_stranger(method: str, path: str) -> int:
    if (method, path) in {(method, path) for method in ("GET", "HEAD") for path in ("/metrics", "/healthz", "/health")}:
        return 200
    return 403 if method == "WEBSOCKET" else 401


def asked_as_anybody(port: int, method: str, path: str, headers: dict[str, str]) -> int:
    """The status that a plain HTTP client sees; of a WebSocket, of its handshake."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    shake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    try:
        if method == "WEBSOCKET":
            connection.request("GET", path, headers=headers | shake | {"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw=="})
        else:
            connection.request(method, path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def as_another_user(what: Callable[[], Any]) -> Any:
    """The JSON of what a child of this process finds after it became ``nobody``."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, json.dumps(what()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def test_a_lab_that_is_up_gives_its_owner_a_fresh_address(lab: LabProcess) -> None:
    done = servescope(lab.home, "lab")
    assert done.returncode == 1
    [address] = [word for word in done.stderr.split() if "?token=" in word]
    assert address.startswith(lab.address.url)
    for status in (303, 401):  # it works once
        connection = http.client.HTTPConnection(lab.address.host, lab.address.port, timeout=60)
        connection.request("GET", address.removeprefix(lab.address.url), headers={"Accept": "text/html"})
        answer = connection.getresponse()
        assert (answer.status, "Set-Cookie" in answer.headers) == (status, status == 303)
        connection.close()


def test_no_token_is_said_and_opens_the_page_to_all(tmp_path: Path) -> None:
    lab = LabProcess(Home(tmp_path / "home"), "--port", "0", "--no-token").start()
    try:
        assert asked_as_anybody(lab.address.port, "GET", "/", {}) == 200
        assert asked_as_anybody(lab.address.port, "GET", "/api/status", {}) == 401
        assert page_address(lab.address) == lab.address.url
    finally:
        _, said = lab.stop()
    assert "everybody with an account on this machine" in said
    assert "?token=" not in said
