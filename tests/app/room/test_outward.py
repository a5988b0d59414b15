"""Beyond 127.0.0.1 a lab listens only where it is asked to, and then only with all that this takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import LabError
from app.server.outward import listen, outward_of
from app.server.serve import PING_S

PROXY_IDLE_S = 30.0
NEEDS: list[tuple[dict[str, Any], str, str]] = [
    ({"listen": "0.0.0.0:8443"}, "--allow-host", "name"),
    ({"listen": "0.0.0.0:8443", "hosts": ["lab.example.org"]}, "--tls-cert", "in the clear"),
    (
        {"listen": "0.0.0.0:8443", "hosts": ["x"], "certificate": "/nowhere.pem", "key": "/nowhere.key"},
        "--tls-cert",
        "no file",
    ),
    ({"listen": "0.0.0.0:8443", "hosts": ["x"], "certificate": "/nowhere.pem"}, "--tls-key", "without"),
    ({"listen": "0.0.0.0", "hosts": ["x"], "behind_proxy": True}, "--listen", "no address"),
    ({"listen": "0.0.0.0:99999", "hosts": ["x"], "behind_proxy": True}, "--listen", "no address"),
    ({"listen": "0.0.0.0:8443", "hosts": ["x"], "behind_proxy": True, "token": False}, "--no-token", "token"),
    ({"url": "https://lab.example.org", "token": False}, "--no-token", "token"),
    ({"workshop": True, "token": False}, "--no-token", "by their links"),
    ({"certificate": "/x", "key": "/y"}, "--listen", "of no use"),
    ({"url": "ftp://lab.example.org"}, "--url", "not an address"),
    ({"url": "https://lab.example.org/<script>"}, "--url", "not an address"),
    ({"url": "https://user@lab.example.org/"}, "--url", "not an address"),
    ({"url": "lab.example.org"}, "--url", "not an address"),
]


@pytest.mark.parametrize(("options", "field", "says"), NEEDS)
def test_what_is_missing_is_named(options: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(LabError, match=says) as refused:
        outward_of(**options)
    assert refused.value.field == field
    assert refused.value.mend


def test_nothing_is_listened_on_unless_asked_for() -> None:
    with listen(outward_of()) as socket:
        assert socket is None
    with listen(outward_of(url="https://lab.example.org/w")) as socket:
        assert socket is None
    assert outward_of(url="https://lab.example.org/w").hosts == ("lab.example.org",)


def test_links_name_the_host_and_the_port_that_is_listened_on(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("")
    file = str(tmp_path / "pem")
    with_tls = outward_of(listen="0.0.0.0:8443", hosts=["lab.example.org"], certificate=file, key=file)
    assert with_tls.public.url == "https://lab.example.org:8443"
    proxied = outward_of(listen="10.0.0.5:8443", hosts=["lab.example.org"], behind_proxy=True)
    assert proxied.public.url == "https://lab.example.org"


def test_sockets_say_something_before_a_proxy_ends_them() -> None:
    assert PING_S < PROXY_IDLE_S / 1.5
