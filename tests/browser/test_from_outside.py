"""The lab as others reach it: behind a real nginx under a path, as docs/workshop.md configures it, and by its own TLS."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from app.chromium import find_chromium
from app.home import Home
from app.room.files import rooms
from tests.app.lab_process import LabProcess, lab_on
from tests.app.small_runs import wait_for
from tests.browser.conftest import ROOT, STILL

NAME = "lab.example.org"
PROXY_IDLE_MS = 30_000
SOCKETS = ("/_stcore/stream", "/room-channel")
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.rare]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    pem, key = tmp_path / "lab.pem", tmp_path / "lab.key"
    asked = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
    subprocess.run(["openssl", *asked, "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True)
    return pem, key


@contextlib.contextmanager
def nginx(folder: Path, port: int, lab_port: int, certificate: tuple[Path, Path]) -> Iterator[None]:
    """A proxy with the block that the documentation shows."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    shown = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "workshop.md").read_text(encoding="utf-8"), re.S)
    assert shown is not None
    block = shown[1].replace("8642", str(lab_port))
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths}\n server {{ listen 127.0.0.1:{port} ssl; server_name {NAME};\n"
        f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};\n{block}\n}} }}\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([program, "-p", f"{folder}/", "-c", str(folder / "nginx.conf"), "-e", str(folder / "e")])
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def looking_on(link: str) -> Iterator[tuple[Page, list[str], list[str]]]:
    """The page behind a viewer's link, the sockets it opened, and what went wrong."""
    program = find_chromium()
    arguments = ["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=arguments)
        page = browser.new_context(ignore_https_errors=True).new_page()
        sockets: list[str] = []
        wrong: list[str] = []
        page.on("websocket", lambda opened: sockets.append(opened.url))
        page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto(link)
        page.wait_for_function(STILL)
        yield page, sockets, wrong
        browser.close()


def walk(lab: LabProcess, base: str) -> None:
    """A viewer comes in by the link, goes from page to page, and keeps its sockets while nothing happens."""
    with looking_on(f"{base}/?token={rooms(lab.home)[0].viewers_token}") as (page, sockets, wrong):
        page.get_by_role("button", name="Look around alone").click()
        page.get_by_role("link", name="Glossary").click()
        expect(page).to_have_url(f"{base}/glossary")
        expect(page.get_by_role("heading", name="Glossary")).to_be_visible()
        opened = sorted(sockets)
        assert {address.removeprefix(base.replace("https", "wss")) for address in opened} == set(SOCKETS)
        page.wait_for_timeout(PROXY_IDLE_MS + 10_000)
        assert sorted(sockets) == opened, "a socket was closed and opened again"
        page.reload()
        expect(page.get_by_role("heading", name="Glossary")).to_be_visible()
        assert not wrong


def test_behind_nginx_under_a_path(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    port, lab_port = free_port(), free_port()
    base = f"https://{NAME}:{port}/workshop"
    with (
        nginx(tmp_path, port, lab_port, certificate),
        lab_on(Home(tmp_path / "home"), "--workshop", "--port", str(lab_port), "--url", base, "--no-starter") as lab,
    ):
        walk(lab, base)


def test_by_its_own_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    port, (pem, key) = free_port(), certificate
    options = ("--listen", f"127.0.0.1:{port}", "--allow-host", NAME, "--tls-cert", str(pem), "--tls-key", str(key))
    with lab_on(Home(tmp_path / "home"), "--workshop", "--port", "0", "--no-starter", *options) as lab:
        walk(lab, f"https://{NAME}:{port}")
