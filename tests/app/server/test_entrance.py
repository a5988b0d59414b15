"""Nobody gets into the lab by its address alone: a ticket works once, the cookie outlives a restart, the token opens for programs."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from app.home import Home
from app.locks import LabAddress
from app.server.entrance import MOST_TICKETS, Entrance, entrance_of, ticket_in
from app.server.gate import SIGNED_OUT, Gate

ADDRESS = LabAddress("127.0.0.1", 8642, "the-token")
HTML = {"accept": "text/html,*/*;q=0.8"}


def ticket_of(entrance: Entrance) -> str:
    return parse_qs(urlsplit(entrance.page_address()).query)["token"][0]


class Answer:
    """What the gate sent. ``passed``: it let the request through to the lab."""

    def __init__(self, passed: bool, messages: list[dict[str, Any]]) -> None:
        self.passed, self.messages = passed, messages
        self.status = messages[0].get("status", 403) if messages else 200
        pairs = messages[0].get("headers", ()) if messages else ()
        self.headers = {name.decode(): value.decode() for name, value in pairs}
        self.body = b"".join(message.get("body", b"") for message in messages).decode()


def ask(
    entrance: Entrance,
    path: str = "/",
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    body: str = "",
    kind: str = "http",
) -> Answer:
    """Send one request to a gate with an empty lab behind it."""
    passed, sent = [], []

    async def lab(*_: object) -> None:
        passed.append(True)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body.encode(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    name, _, query = path.partition("?")
    pairs = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
    scope: Any = {"type": kind, "method": method, "path": name, "raw_path": name.encode(), "headers": pairs}
    with ThreadPoolExecutor(1) as thread:  # a browser that other tests have open has an event loop in this one
        thread.submit(
            asyncio.run, Gate(lab, entrance)(scope | {"query_string": query.encode()}, receive, send)
        ).result()
    return Answer(bool(passed), sent)


def cookie_of(entrance: Entrance) -> dict[str, str]:
    return {"cookie": entrance.set_cookie().partition(";")[0]}


def sign_in(entrance: Entrance, token: str, target: str = "/") -> Answer:
    return ask(entrance, "/sign-in", method="POST", body=urlencode({"token": token, "next": target}))


def test_a_printed_address_lets_one_browser_in_once() -> None:
    entrance = Entrance(ADDRESS)
    ticket = ticket_of(entrance)
    first = ask(entrance, f"/compare?experiment=x&token={ticket}", HTML)
    assert (first.status, first.headers["location"]) == (303, "/compare?experiment=x")
    assert ask(entrance, headers={"cookie": first.headers["set-cookie"].partition(";")[0]}).passed
    second = ask(entrance, f"/?token={ticket}", HTML)
    assert second.status == 401
    assert "used already" in second.body
    assert "set-cookie" not in second.headers


def test_the_used_address_asked_for_again_by_the_browser_it_let_in_shows_the_page() -> None:
    entrance = Entrance(ADDRESS)
    again = ask(entrance, "/?run=x&token=used", HTML | cookie_of(entrance))
    assert (again.status, again.headers["location"]) == (303, "/?run=x")


def test_the_cookie_is_kept_from_scripts_and_other_sites() -> None:
    entrance = Entrance(ADDRESS)
    attributes = {part.strip().lower() for part in entrance.set_cookie().split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes
    assert "the-token" not in entrance.set_cookie()


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "x",
        "servescope-8642=",
        "servescope-8642=00",
        "servescope-9000={right}",
        "other={right}",
        "servescope-8642=ü{right}",
    ],
)
def test_another_cookie_opens_nothing(cookie: str) -> None:
    entrance = Entrance(ADDRESS)
    right = cookie_of(entrance)["cookie"].partition("=")[2]
    assert not ask(entrance, headers={"cookie": cookie.format(right=right)}).passed
    assert not ask(Entrance(ADDRESS), headers=cookie_of(entrance)).passed, "another lab's secret"


def test_cookies_of_other_programs_on_this_machine_do_not_hide_ours() -> None:
    entrance = Entrance(ADDRESS)
    mine = cookie_of(entrance)["cookie"]
    assert ask(entrance, headers={"cookie": f'a="b; c={{}}[]; servescope-8642=old; {mine}; =; ;'}).passed


@pytest.mark.parametrize(
    "given", ["Bearer wrong", "Bearer", "the-token", "Basic the-token", "Bearer the-token2", "Bearer ü"]
)
def test_another_token_opens_nothing(given: str) -> None:
    assert not ask(Entrance(ADDRESS), headers={"authorization": given}).passed
    assert ask(Entrance(ADDRESS), headers={"authorization": "Bearer the-token"}).passed


def test_without_a_cookie_a_page_says_how_to_get_in_and_anything_else_an_error() -> None:
    entrance = Entrance(ADDRESS)
    page = ask(entrance, '/runs?run="><script>x', HTML)
    assert page.status == 401
    assert "servescope lab" in page.body
    assert "<script" not in page.body
    assert page.headers["cache-control"] == "no-store"
    call = ask(entrance, "/api/runs", {"accept": "*/*"})
    assert (call.status, json.loads(call.body)["error"]["kind"]) == (401, "bad-token")
    part = ask(entrance, "/_stcore/health", {"accept": "*/*"})
    assert (part.status, json.loads(part.body)) == (401, SIGNED_OUT)
    assert ask(entrance, "/live", kind="websocket").messages[0]["type"] == "websocket.close"
    assert ask(entrance, "/live", cookie_of(entrance), kind="websocket").passed


def test_a_link_on_another_site_is_asked_for_once_more_by_the_page_itself() -> None:
    """Browsers leave a strict cookie out of a request that another site began."""
    page = ask(Entrance(ADDRESS), "/?run=x", HTML | {"sec-fetch-site": "cross-site"})
    assert 'http-equiv="refresh"' in page.body


def test_the_sign_in_page_takes_a_token_a_ticket_or_a_whole_address_and_goes_where_one_wanted_to() -> None:
    entrance = Entrance(ADDRESS)
    for given in ("the-token", ticket_of(entrance), entrance.page_address(), f" {entrance.page_address()}\n"):
        answer = sign_in(entrance, given, "/runs?run=x")
        assert (answer.status, answer.headers["location"]) == (303, "/runs?run=x")
        assert "set-cookie" in answer.headers
    for wrong in ("", "x", "http://127.0.0.1:8642/?token=x", "http://[", "ü"):
        answer = sign_in(entrance, wrong, "/runs")
        assert answer.status == 401
        assert 'role="alert"' in answer.body
        assert 'value="/runs"' in answer.body


@pytest.mark.parametrize(
    "target", ["//evil.example", "/\\evil.example", "http://evil.example", "", "/x\r\nset-cookie: a=b", "/ü"]
)
def test_signing_in_leads_to_no_other_host(target: str) -> None:
    assert sign_in(Entrance(ADDRESS), "the-token", target).headers["location"] == "/"
    entrance = Entrance(ADDRESS)
    path = target.replace("http:", "").replace("\r\n", "%0d%0a")
    if path.startswith("/"):
        location = ask(entrance, f"{path}?token={ticket_of(entrance)}", HTML).headers["location"]
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))


def test_a_form_without_end_is_cut() -> None:
    assert ask(Entrance(ADDRESS), "/sign-in", method="POST", body="token=" + "x" * 1_000_000).status == 401
    assert (
        ask(
            Entrance(ADDRESS),
            "/sign-in",
            method="POST",
            body="\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
        ).status
        == 401
    )


def test_tickets_that_nobody_uses_do_not_pile_up() -> None:
    entrance = Entrance(ADDRESS)
    first = ticket_of(entrance)
    for _ in range(MOST_TICKETS):
        last = ticket_of(entrance)
    assert not entrance.accepts(first)
    assert entrance.accepts(last)


def test_health_and_metrics_ask_for_nothing() -> None:
    for path in ("/healthz", "/health", "/metrics"):
        assert ask(Entrance(ADDRESS), path).passed
        assert not ask(Entrance(ADDRESS), path, method="POST").passed
    assert not ask(Entrance(ADDRESS), "/healthz/../api/runs").passed


def test_the_cookie_outlives_a_restart_and_its_secret_is_its_owners(tmp_path: Path) -> None:
    home = Home(tmp_path)
    cookie = cookie_of(entrance_of(home, ADDRESS))
    assert home.entrance_file.stat().st_mode & 0o777 == 0o600
    restarted = entrance_of(home, LabAddress("127.0.0.1", 8642, "another token"))
    assert ask(restarted, headers=cookie).passed


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"secret": 7}', '{"secret": "00"}', '{"secret": "zz"}'])
def test_a_damaged_secret_is_made_anew_rather_than_guessable(tmp_path: Path, damage: str) -> None:
    home = Home(tmp_path)
    home.entrance_file.write_text(damage)
    made = entrance_of(home, ADDRESS)
    assert made.set_cookie() == entrance_of(home, ADDRESS).set_cookie()
    assert made.set_cookie() != Entrance(ADDRESS, b"\0" * 32).set_cookie()


def test_no_token_lets_everybody_in_and_prints_a_plain_address() -> None:
    entrance = Entrance(ADDRESS, open_to_all=True)
    assert entrance.page_address() == ADDRESS.url
    assert ask(entrance).passed
    assert ask(entrance, "/live", kind="websocket").passed


def test_what_people_paste_is_read() -> None:
    assert ticket_in("abc") == "abc"
    assert ticket_in("http://127.0.0.1:1/compare?a=b&token=abc") == "abc"
    assert ticket_in("http://127.0.0.1:1/") == ""
