"""Who comes by which link, and what the gate lets a viewer do: nothing that acts, on any method or socket."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from app.home import Home
from app.locks import LabAddress
from app.room import room as rooms
from app.room.room import open_room
from app.server.entrance import JOINS_AT_ONCE, Crowded, Entrance
from app.server.gate import MOST_SOCKETS_OF_VIEWER, Gate
from app.server.public import public_of
from app.server.rate import Rate
from tests.app.server.test_entrance import ADDRESS, HTML, Answer, ask, cookie_of


@pytest.fixture
def entrance(tmp_path: Path) -> Entrance:
    entrance = Entrance(ADDRESS)
    entrance.room = open_room(Home(tmp_path).prepare())
    return entrance


def join(entrance: Entrance, headers: dict[str, str] | None = None) -> Answer:
    assert entrance.room is not None
    return ask(entrance, f"/learn?lesson=x&token={entrance.room.kept.viewers_token}", HTML | (headers or {}))


def cookie(answer: Answer) -> dict[str, str]:
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


def who(entrance: Entrance, headers: dict[str, str]) -> str | None:
    visitor = entrance.visitor_of([(name.encode(), value.encode()) for name, value in headers.items()])
    return visitor.role if visitor is not None else None


def test_the_viewers_link_lets_everybody_in_as_a_viewer(entrance: Entrance) -> None:
    first, second = join(entrance), join(entrance)
    assert (first.status, first.headers["location"]) == (303, "/learn?lesson=x")
    assert cookie(first) != cookie(second), "each is somebody else"
    assert who(entrance, cookie(first)) == "viewer"
    assert {"HttpOnly", "SameSite=Strict"} <= {part.strip() for part in first.headers["set-cookie"].split(";")}
    assert cookie(join(entrance, cookie(first))) == cookie(first), "who comes again is who they were"


def test_the_presenters_link_is_the_owners(entrance: Entrance) -> None:
    assert entrance.room is not None
    came = ask(entrance, f"/?token={entrance.room.kept.presenters_token}", HTML)
    assert who(entrance, cookie(came)) == "owner"


def test_the_owner_stays_one_by_opening_the_viewers_link(entrance: Entrance) -> None:
    mine = cookie_of(entrance)["cookie"]
    came = join(entrance, {"cookie": mine})
    assert who(entrance, {"cookie": f"{cookie(came)['cookie']}; {mine}"}) == "owner"


@pytest.mark.parametrize("change", ["role", "member", "mac", "empty"])
def test_a_cookie_that_was_changed_opens_nothing(entrance: Entrance, change: str) -> None:
    name, _, value = cookie(join(entrance))["cookie"].partition("=")
    role, member, mac = value.split(".")
    forged = {
        "role": f"owner.{member}.{mac}",
        "member": f"{role}.{'0' * 16}.{mac}",
        "mac": f"{role}.{member}.{'0' * 64}",
        "empty": "..",
    }[change]
    assert who(entrance, {"cookie": f"{name}={forged}"}) is None


def test_links_and_cookies_of_yesterday_open_nothing(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    old = cookie(join(entrance))
    link = entrance.room.kept.viewers_token  # type: ignore[union-attr]
    monkeypatch.setattr(rooms, "LASTS_S", -1.0)
    assert who(entrance, old) is None
    answer = ask(entrance, f"/?token={link}", HTML)
    assert answer.status == 401
    assert "a workshop that is over" in answer.body
    assert "set-cookie" not in answer.headers


def test_ten_thousand_joins_in_a_minute_are_slowed_and_leave_nothing(entrance: Entrance) -> None:
    now = [0.0]
    entrance._joins = Rate(5.0, JOINS_AT_ONCE, lambda: now[0])
    assert entrance.room is not None
    token, taken = entrance.room.kept.viewers_token, 0
    before = sorted(entrance.room.folder.rglob("*"))
    for _ in range(10_000):
        now[0] += 60 / 10_000
        with contextlib.suppress(Crowded):
            taken += entrance.let_in(token, []) is not None
    assert JOINS_AT_ONCE <= taken <= JOINS_AT_ONCE + 300
    assert sorted(entrance.room.folder.rglob("*")) == before
    answer = join(entrance)
    assert (answer.status, answer.headers["retry-after"]) == (429, "5")
    now[0] += 1.0
    assert join(entrance).status == 303


def test_somebody_who_is_in_comes_again_however_crowded_it_is(entrance: Entrance) -> None:
    mine = cookie(join(entrance))
    entrance._joins = Rate(0.0, 0)
    assert join(entrance, mine).status == 303


def test_guesses_are_slowed_and_the_right_token_still_opens(entrance: Entrance) -> None:
    assert 429 in {ask(entrance, f"/?token=guess-{n}", HTML).status for n in range(100)}
    assert join(entrance).status == 303


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "GET"])
def test_a_viewer_gets_pages_and_nothing_that_acts(entrance: Entrance, method: str) -> None:
    mine = cookie(join(entrance))
    for path in ("/", "/runs", "/_stcore/upload_file/x/y", "/anything"):
        answer = ask(entrance, path, mine, method=method)
        assert answer.passed == (method in ("GET", "HEAD")), path
        assert answer.passed or answer.status == 403
    assert ask(entrance, "/api/runs", mine, method=method).status == 403


def test_a_viewer_may_open_three_sockets_and_not_too_many(entrance: Entrance) -> None:
    mine = cookie(join(entrance))
    for path, allowed in (("/live", True), ("/room-channel", True), ("/_stcore/stream", True), ("/other", False)):
        assert ask(entrance, path, mine, kind="websocket").passed == allowed
    gate = Gate(lambda *_: None, entrance)  # type: ignore[arg-type]
    visitor = entrance.visitor_of([(b"cookie", mine["cookie"].encode())])
    assert visitor is not None
    gate._sockets[visitor.member] = MOST_SOCKETS_OF_VIEWER
    assert not gate._takes("/live", visitor)


def test_behind_a_proxy_redirects_and_cookies_fit_its_address(tmp_path: Path) -> None:
    entrance = Entrance(ADDRESS, public=public_of("https://lab.example.org/workshop/"))
    entrance.room = open_room(Home(tmp_path).prepare())
    token = entrance.room.kept.viewers_token
    assert entrance.room_address(token) == f"https://lab.example.org/workshop/?token={token}"
    answer = join(entrance, {"host": "lab.example.org"})
    assert answer.headers["location"] == "/workshop/learn?lesson=x"
    assert "Secure" in answer.headers["set-cookie"]
    here = join(entrance, {"host": "127.0.0.1:8642"})
    assert here.headers["location"] == "/learn?lesson=x"
    assert "Secure" not in here.headers["set-cookie"]


def test_tokens_are_compared_in_constant_time(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr("app.server.entrance.hmac.compare_digest", lambda a, b: seen.append(b) or False)
    assert entrance.room is not None
    entrance.let_in("x", [(b"cookie", f"{entrance.room_cookie_name}=viewer.m.0".encode())])
    for token in (ADDRESS.token, entrance.room.kept.viewers_token, entrance.room.kept.presenters_token):
        assert token.encode() in seen


def test_without_a_room_its_cookies_open_nothing(entrance: Entrance) -> None:
    mine = cookie(join(entrance))
    assert (
        Entrance(LabAddress("127.0.0.1", 8642, "the-token")).visitor_of([(b"cookie", mine["cookie"].encode())]) is None
    )
