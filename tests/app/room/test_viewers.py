"""Before a real lab with a room: a viewer tries every route and every socket, and nothing in the store changes."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.home import Home
from app.room.files import rooms
from app.server.client import page_address
from tests.app.lab_process import LabProcess, lab_on
from tests.app.lab_process import http as fetch
from tests.app.lab_routes import ROUTES
from tests.app.server.test_strangers import asked_as_anybody
from tests.app.small_runs import small_spec

READS = ("GET", "HEAD")
LOOK = {"page": "learn", "from": "H3 One", "to": "end", "share": 0.25, "of": 0.5, "views": {"a chart 0": [1, 2.5]}}
SOCKETS = {"/_stcore/stream", "/live", "/room-channel"}


@pytest.fixture(scope="module")
def lab() -> Iterator[LabProcess]:
    with tempfile.TemporaryDirectory() as folder, lab_on(Home(Path(folder)), "--workshop", "--port", "0") as running:
        running.submit(small_spec("shown"))
        yield running


def joined(lab: LabProcess, token: str | None = None) -> dict[str, str]:
    """The cookie of somebody who comes by the viewers' link, or with another token."""
    token = token or rooms(lab.home)[0].viewers_token
    connection = http.client.HTTPConnection("127.0.0.1", lab.address.port, timeout=60)
    connection.request("GET", f"/?token={urllib.parse.quote(token)}", headers={"Accept": "text/html"})
    answer = connection.getresponse()
    connection.close()
    assert answer.status == 303
    return {"Cookie": str(answer.headers["Set-Cookie"]).partition(";")[0]}


def owner(lab: LabProcess) -> dict[str, str]:
    return joined(lab, page_address(lab.address).partition("token=")[2])


def store(lab: LabProcess) -> dict[str, str]:
    """Every file of runs, experiments and settings, by its hash."""
    kept = [one for name in ("runs", "trash", "experiments", "settings", "queries", "traces", "scenarios", "learners", "rooms")
            for one in (lab.home.root / name).rglob("*") if one.is_file() and one.name != "brief.json"]  # fmt: skip
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@contextlib.contextmanager
def channel(lab: LabProcess, headers: dict[str, str], tab: str) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{lab.address.port}/room-channel", additional_headers=headers) as socket:
        socket.send(json.dumps({"tab": tab}))
        yield socket


def state(socket: ClientConnection) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(socket.recv(timeout=30))
    return told


def until(socket: ClientConnection, **wanted: Any) -> dict[str, Any]:
    """The first state that says this."""
    while True:
        told = state(socket)
        if all(told.get(name) == value for name, value in wanted.items()):
            return told


def test_every_route_and_method_refuses_a_viewer_what_acts_or_tells_more(lab: LabProcess) -> None:
    mine, before = joined(lab), store(lab)
    for method, path in {*ROUTES, *((m, p) for _, p in ROUTES for m in ("POST", "PUT", "DELETE", "PATCH"))}:
        if method == "WEBSOCKET":
            continue
        status = asked_as_anybody(lab.address.port, method, path, mine)
        if path.startswith("/api/") or (method not in READS and path != "/sign-in"):
            assert status == 403, (method, path)
        else:
            assert status in (200, 302, 303, 304, 307, 400, 401, 404, 405), (method, path, status)
    assert store(lab) == before


def test_the_api_takes_no_viewers_cookie_and_no_token_of_the_room(lab: LabProcess) -> None:
    room, before = rooms(lab.home)[0], store(lab)
    tries = (
        ("GET", "/api/status", None),
        ("POST", "/api/page-address", {}),
        ("POST", "/api/runs", {"run_id": "shown"}),
        ("DELETE", "/api/runs/shown", None),
        ("POST", "/api/runs/shown/cancel", {}),
        ("POST", "/api/runs/shown/move", {"way": "front"}),
        ("POST", "/api/runs/shown/restore", {}),
        ("POST", "/api/sql", {"query": "SELECT 1"}),
    )
    for method, path, body in tries:
        sent = json.dumps(body).encode() if body is not None else None
        for headers in (joined(lab), {"Authorization": f"Bearer {room.viewers_token}"}):
            status, _ = fetch(lab.address, path, method=method, headers=headers, body=sent)
            assert status in (401, 403), (method, path)
    assert store(lab) == before


def test_every_socket_of_the_lab_is_for_viewers_or_refused(lab: LabProcess) -> None:
    mine = joined(lab)
    for path in {path for method, path in ROUTES if method == "WEBSOCKET"} | {"/api", "/other"}:
        address = f"ws://127.0.0.1:{lab.address.port}{path}"
        if path in SOCKETS:
            asked = [Subprotocol("streamlit")] if "stcore" in path else None
            with connect(address, additional_headers=mine, subprotocols=asked):
                pass
        else:
            with pytest.raises(InvalidStatus), connect(address, additional_headers=mine):
                pass


def test_the_live_socket_wants_the_pages_token_and_slows_viewers(lab: LabProcess) -> None:
    room = rooms(lab.home)[0]
    for token in (room.viewers_token, "x", ""):
        with connect(f"ws://127.0.0.1:{lab.address.port}/live", additional_headers=joined(lab)) as socket:
            socket.send(json.dumps({"token": token, "run": "shown"}))
            assert state(socket)["kind"] == "bad-token"
    assert fetch(lab.address, "/api/status", headers={"Authorization": f"Bearer {room.presenters_token}"})[0] in (
        401,
        403,
    )


def test_a_viewer_cannot_present(lab: LabProcess) -> None:
    shown = rooms(lab.home)[0].shown
    for message in ({"show": {"page": "runs", "query": ""}}, {"look": LOOK}, {"take_over": True}):
        with channel(lab, joined(lab), "viewertab1") as socket:
            assert state(socket)["presenting"] is False
            socket.send(json.dumps(message))
            assert until(socket, type="error")["kind"] == "not-allowed"
    assert rooms(lab.home)[0].shown == shown


def test_viewers_are_led_where_the_presenter_is_and_a_second_presenter_is_told(lab: LabProcess) -> None:
    with channel(lab, owner(lab), "presenter1") as presents, channel(lab, joined(lab), "viewertab2") as follows:
        assert until(presents, presenting=True)
        assert until(follows, presenter=True, here=1)["presenting"] is False
        presents.send(json.dumps({"show": {"page": "learn", "query": "lesson=batching&step=1"}}))
        while (told := state(follows))["shown"]["page"] != "learn":
            pass
        assert told["shown"]["query"] == "lesson=batching&step=1"
        assert told["asked"]
        with channel(lab, owner(lab), "presenter2") as second:
            assert state(second)["presenting"] is False
            second.send(json.dumps({"show": {"page": "runs", "query": ""}}))
            second.send(json.dumps({"take_over": True}))
            assert until(second, presenting=True)["shown"]["page"] == "learn", "what a second one shows is not taken"
            assert until(presents, presenting=False)


def test_what_the_presenter_looks_at_is_passed_on_and_a_second_ones_is_not(lab: LabProcess) -> None:
    with channel(lab, owner(lab), "presenter4") as presents, channel(lab, owner(lab), "presenter5") as second:
        presents.send(json.dumps({"take_over": True}))
        until(presents, presenting=True)
        presents.send(json.dumps({"look": LOOK}))
        second.send(json.dumps({"look": LOOK | {"share": 0.75}}))
        with channel(lab, joined(lab), "viewertab5") as follows:
            assert until(follows, look=LOOK)
            second.send(json.dumps({"look": LOOK | {"share": 1}}))
            presents.send(json.dumps({"look": LOOK | {"views": {}}}))
            while (told := state(follows))["look"] == LOOK:
                pass
            assert told["look"] == LOOK | {"views": {}}
        presents.send(json.dumps({"look": LOOK | {"share": 7}}))
        assert until(presents, type="error")["kind"] == "bad-message"


def test_a_viewer_who_was_gone_is_told_all_and_a_presenter_who_is_gone_leaves_what_was_shown(lab: LabProcess) -> None:
    with channel(lab, owner(lab), "presenter3") as presents:
        state(presents)
        presents.send(json.dumps({"take_over": True}))
        until(presents, presenting=True)
        presents.send(json.dumps({"show": {"page": "papers", "query": "paper=orca"}}))
        while state(presents)["shown"]["page"] != "papers":
            pass
    with channel(lab, joined(lab), "viewertab3") as follows:
        told = until(follows, presenter=False)
    assert (told["shown"]["page"], told["shown"]["query"]) == ("papers", "paper=orca")


@pytest.mark.parametrize("message", ["", "[]", "{}", '{"tab": "<script>"}', '{"tab": 7}', "x" * 5000])
def test_a_wrong_first_message_is_refused_in_words(lab: LabProcess, message: str) -> None:
    with connect(f"ws://127.0.0.1:{lab.address.port}/room-channel", additional_headers=joined(lab)) as socket:
        socket.send(message)
        assert state(socket)["type"] == "error"


def test_a_lab_that_starts_again_takes_the_same_links_and_cookies(lab: LabProcess) -> None:
    port, mine, shown = lab.address.port, joined(lab), rooms(lab.home)[0].shown
    lab.stop()
    lab._options = ("--workshop", "--port", str(port))
    lab.start()
    assert lab.address.port == port
    with channel(lab, mine, "viewertab4") as follows:
        assert state(follows)["shown"] == shown.model_dump()
