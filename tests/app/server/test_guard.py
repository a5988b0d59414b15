"""The guard turns down everything that a foreign page or name could send, and lets this machine's browser in."""

from __future__ import annotations

import pytest

from app.server.guard import Guard, host_name, same_origin

HERE = "127.0.0.1:8642"


def refusal(**headers: str) -> str | None:
    async def nothing(*_: object) -> None:
        raise AssertionError("not asked here")

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Guard(nothing).refusal(pairs)


@pytest.mark.parametrize("host", [HERE, "localhost:8642", "LOCALHOST", "127.0.0.1", "[::1]:8642"])
def test_this_machine_is_let_in(host: str) -> None:
    assert refusal(host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8642",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example/127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "",
        "[",
        "192.168.0.7",
    ],
)
def test_a_foreign_host_is_refused(host: str) -> None:
    assert refusal(host=host)


def test_a_missing_or_doubled_host_is_refused() -> None:
    guard = Guard(lambda *_: None)  # type: ignore[arg-type, return-value]
    assert guard.refusal([])
    assert guard.refusal([(b"host", HERE.encode()), (b"host", b"evil.example")])


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example",
        "http://127.0.0.1:9999",
        "http://127.0.0.1",
        "http://localhost:8642",
        "http://127.0.0.1:8642.evil.example",
        "null",
        "file://",
        "",
        "127.0.0.1:8642",
        "chrome-extension://127.0.0.1:8642",
    ],
)
def test_a_foreign_origin_is_refused(origin: str) -> None:
    assert refusal(host=HERE, origin=origin)


def test_the_labs_own_page_is_let_in() -> None:
    assert refusal(host=HERE, origin=f"http://{HERE}") is None
    assert refusal(host="localhost:8642", origin="http://localhost:8642") is None


def test_two_origins_are_refused() -> None:
    pairs = [(b"host", HERE.encode()), (b"origin", f"http://{HERE}".encode()), (b"origin", b"http://evil.example")]
    assert Guard(lambda *_: None).refusal(pairs)  # type: ignore[arg-type, return-value]


def test_another_site_may_link_to_the_lab_but_not_load_parts_of_it() -> None:
    assert refusal(host=HERE, sec_fetch_site="cross-site", sec_fetch_mode="navigate") is None
    assert refusal(host=HERE, sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
    assert refusal(host=HERE, sec_fetch_site="same-origin", sec_fetch_mode="cors") is None


def test_a_named_host_is_let_in() -> None:
    async def nothing(*_: object) -> None: ...

    guard = Guard(nothing, ("localhost", "Workshop.Example"))
    assert guard.refusal([(b"host", b"workshop.example:443")]) is None
    assert guard.refusal([(b"host", b"127.0.0.1")])


def test_a_proxys_page_is_let_in_whether_or_not_the_proxy_names_its_port() -> None:
    async def nothing(*_: object) -> None: ...

    guard = Guard(nothing, ("localhost", "lab.example"), origin="https://lab.example:9443")
    own = (b"origin", b"https://lab.example:9443")
    assert guard.refusal([(b"host", b"lab.example"), own]) is None
    assert guard.refusal([(b"host", b"lab.example:9443"), own]) is None
    assert guard.refusal([(b"host", b"localhost"), own]), "under another name"
    assert guard.refusal([(b"host", b"lab.example"), (b"origin", b"https://lab.example:9444")])
    assert guard.refusal([(b"host", b"lab.example"), (b"origin", b"http://lab.example:9443")])


def test_names_are_read_without_port_and_brackets() -> None:
    assert host_name("[::1]:80") == "::1"
    assert host_name("a.b:1") == "a.b"
    assert not same_origin("http://a", "a:80")
