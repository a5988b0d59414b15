"""The lab server as a whole: who is let in, what it answers, one per store, a port of its own."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from app.errors import LabError
from app.home import Home
from app.locks import LabAddress
from app.server.connections import listener_at
from app.server.lab_lock import LabLock
from app.server.live_socket import MOST_SILENT
from app.server.routes import PAGES
from app.server.serve import PAGE, configure_streamlit, streamlit_options
from telemetry.status import read_status
from tests.app.lab_process import LabProcess, free_port, http, lab_on
from tests.app.lab_routes import ROUTES
from tests.app.small_runs import endless_spec, small_spec, wait_for, wait_for_state

EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    with lab_on(Home(tmp_path_factory.mktemp("home"))) as running:
        yield running


@pytest.fixture(scope="module")
def finished(lab: LabProcess) -> str:
    """A small run that this lab has served."""
    return lab.submit(small_spec())


def test_the_list_of_routes_is_whole() -> None:
    for known in [("WEBSOCKET", "/live"), ("GET", "/metrics"), ("GET", "/healthz"), ("POST", "/api/sql")]:
        assert known in ROUTES
    assert ("WEBSOCKET", "/_stcore/stream") in ROUTES


def test_every_page_and_what_streamlit_asks_below_it_is_answered(lab: LabProcess) -> None:
    pages = sorted(path.stem for path in (PAGE.parent / "pages").glob("*.py") if path.stem not in ("live", "__init__"))
    assert pages == sorted(PAGES)
    key = {"Authorization": f"Bearer {lab.address.token}"}
    for name in ("", *pages):
        status, text = http(lab.address, f"/{name}", headers=key)
        assert status == 200
        assert text.index("BACKEND_BASE_URL") < text.index('<script type="module"'), name
    for name in pages:
        for below in ("_stcore/health", "_stcore/host-config"):
            answer = http(lab.address, f"/{name}/{below}", headers=key)
            assert answer == http(lab.address, f"/{below}", headers=key)
            assert answer[0] == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("headers", [{"Origin": EVIL}, {"Host": "evil.example"}], ids=["origin", "host"])
def test_every_route_refuses_a_foreign_origin_and_a_foreign_host(
    lab: LabProcess, method: str, path: str, headers: dict[str, str]
) -> None:
    if method == "WEBSOCKET":
        with pytest.raises(InvalidStatus) as caught:
            open_socket(lab, path, headers)
        assert caught.value.response.status_code == 403
        return
    status, body = http(lab.address, path, method=method, headers=headers | bearer(lab))
    assert status == 403
    assert "traceback" not in body.lower()


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[1].startswith("/api")])
def test_every_endpoint_of_the_api_wants_the_token(lab: LabProcess, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": lab.address.token}):
        assert http(lab.address, path, method=method, headers=headers)[0] == 401


def test_the_page_is_served_to_this_machine_and_may_not_be_framed(lab: LabProcess) -> None:
    status, body = http(lab.address, "/", headers={"Origin": lab.address.url} | bearer(lab))
    assert status == 200
    assert "<div id=" in body
    assert lab.address.token not in body


def test_streamlit_is_configured_for_a_lab() -> None:
    from streamlit import config

    configure_streamlit()
    wanted = {
        "server.address": "127.0.0.1",
        "server.allowedHosts": ["127.0.0.1", "localhost", "::1"],
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "viewer",
        "runner.postScriptGC": False,
        "server.fileWatcherType": "none",
        "server.enableAgentApi": False,
        "server.enableXsrfProtection": True,
        "global.developmentMode": False,
    }
    for name, value in wanted.items():
        assert config.get_option(name) == value, name
    assert set(wanted) <= set(streamlit_options([]))


def open_socket(lab: LabProcess, path: str = "/live", headers: dict[str, str] | None = None) -> ClientConnection:
    """With the lab's token. ``Host`` in the headers is only said: the connection goes to the lab."""
    extra = bearer(lab) | (headers or {})
    url = f"ws://{extra.pop('Host', f'{lab.address.host}:{lab.address.port}')}{path}"
    raw = socket.create_connection((lab.address.host, lab.address.port))
    return connect(url, sock=raw, origin=extra.pop("Origin", None), additional_headers=extra)  # type: ignore[arg-type]


def bearer(lab: LabProcess) -> dict[str, str]:
    return {"Authorization": f"Bearer {lab.address.token}"}


@contextlib.contextmanager
def follow(lab: LabProcess, run_id: str, since: dict[str, int] | None = None) -> Iterator[ClientConnection]:
    with open_socket(lab, headers={"Origin": lab.address.url}) as client:
        client.send(json.dumps({"token": lab.address.token, "run": run_id, "since": since}))
        yield client


def decode(frame: bytes) -> tuple[dict[str, Any], dict[str, list[float]]]:
    (length,) = struct.unpack_from("<I", frame)
    header = json.loads(frame[4 : 4 + length])
    n = header["n"]
    values = struct.unpack_from(f"<{n * len(header['columns'])}d", frame, 4 + length)
    return header, {name: list(values[i * n : (i + 1) * n]) for i, name in enumerate(header["columns"])}


def collect(client: ClientConnection, done: Any) -> dict[str, list[Any]]:
    """Messages by kind until ``done(messages)``."""
    messages: dict[str, list[Any]] = {"frame": []}
    while not done(messages):
        message = client.recv(timeout=60)
        if isinstance(message, bytes):
            messages["frame"].append(decode(message))
        else:
            text = json.loads(message)
            messages.setdefault(text["type"], []).append(text)
    return messages


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("{}", "bad-token"),
        ('{"token": 7}', "bad-token"),
        ("[]", "bad-message"),
        ("{", "bad-message"),
        ("x" * 5000, "bad-message"),
        ("[" * 4000, "bad-message"),
        ('{"token": "\\ud800"}', "bad-message"),
        ('{"token": NaN}', "bad-message"),
    ],
)
def test_the_socket_wants_the_token_first(lab: LabProcess, message: str, kind: str) -> None:
    with open_socket(lab) as client:
        client.send(message)
        answer = json.loads(client.recv(timeout=30))
        assert (answer["type"], answer["kind"]) == ("error", kind)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=30)


@pytest.mark.parametrize("every", [99, 5001, "fast", None, True, {}])
def test_the_socket_refuses_a_pace_that_is_none(lab: LabProcess, finished: str, every: Any) -> None:
    with open_socket(lab) as client:
        client.send(json.dumps({"token": lab.address.token, "run": finished, "every_ms": every}))
        assert "every_ms" in json.loads(client.recv(timeout=30))["message"]
    with follow(lab, finished) as client:
        client.send(json.dumps({"every_ms": every}))
        refused = collect(client, lambda m: "error" in m)
        assert "100 to 5000" in refused["error"][0]["message"]


@pytest.mark.parametrize("run", ["nobody", "../runs/x", "", None, 7, {"a": 1}])
def test_the_socket_refuses_what_is_no_run(lab: LabProcess, run: Any) -> None:
    with open_socket(lab) as client:
        client.send(json.dumps({"token": lab.address.token, "run": run}))
        assert json.loads(client.recv(timeout=30))["type"] == "error"


def test_a_live_run_is_streamed_row_by_row_and_a_break_is_taken_up_where_it_was(lab: LabProcess) -> None:
    run_id = lab.submit(endless_spec(), "running")
    with follow(lab, run_id) as client:
        first = collect(client, lambda m: len(m["frame"]) > 20 and "figures" in m and "status" in m)
    assert first["hello"][0]["run"] == run_id
    seen = [n for header, columns in first["frame"] if header["table"] == "iteration" for n in columns["iteration"]]
    assert seen == [float(n) for n in range(len(seen))]
    figures = first["figures"][-1]
    assert {"tokens_per_s", "ttft_ms", "itl_ms", "running", "waiting", "kv_used_share", "limit", "trend"} <= set(
        figures
    )
    assert figures["watching_percent"] > 0
    with follow(lab, run_id, {"iteration": len(seen)}) as client:
        client.send(json.dumps({"every_ms": 250}))
        second = collect(client, lambda m: any(header["table"] == "iteration" for header, _ in m["frame"]))
    header, columns = next(frame for frame in second["frame"] if frame[0]["table"] == "iteration")
    assert header["first"] == len(seen)
    assert columns["iteration"][0] == len(seen)
    lab.call("POST", f"/runs/{run_id}/cancel")
    wait_for_state(lab.home, run_id, "cancelled")


def test_several_tabs_see_the_same_rows(lab: LabProcess, finished: str) -> None:
    rows = []
    for _ in range(3):
        with follow(lab, finished) as client:
            messages = collect(client, lambda m: any(h["table"] == "iteration" for h, _ in m["frame"]))
            rows.append([frame for frame in messages["frame"] if frame[0]["table"] == "iteration"])
    assert rows[0] == rows[1] == rows[2]


def test_metrics_are_open_metrics_and_agree_with_the_database(lab: LabProcess, finished: str) -> None:
    wait_for(lambda: lab.sql(f"SELECT count(*) FROM requests WHERE run_id = '{finished}'") == [[4]])
    status, body = http(lab.address, "/metrics")
    assert status == 200
    lines = body.splitlines()
    assert lines[-1] == "# EOF"
    types = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    samples = [line for line in lines if not line.startswith("#")]
    for line in samples:
        assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-z_]+=\"[^\"]*\",?)*\})? [-+.0-9e]+", line), line
        family = re.sub(r"_(total|bucket|sum|count)$", "", re.split(r"[{ ]", line)[0])
        assert family in types or re.split(r"[{ ]", line)[0] in types
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_bucket",
        "vllm:e2e_request_latency_seconds_bucket",
    ):
        assert any(line.startswith(name) for line in samples), name
    run = re.search(r'run="([^"]+)"', body)
    assert run is not None
    [[tokens]] = lab.sql(f"SELECT sum(emitted_tokens) FROM iterations WHERE run_id = '{run[1]}'")
    assert any(line.startswith("vllm:generation_tokens_total") and line.endswith(f" {tokens}") for line in samples)


def test_clients_that_ask_for_health_as_they_ask_vllm_are_answered(lab: LabProcess) -> None:
    assert http(lab.address, "/health") == (200, "")
    assert http(lab.address, "/healthz")[0] == 200


def test_sql_answers_one_select_and_nothing_else(lab: LabProcess, finished: str) -> None:
    assert lab.sql("SELECT 1 + 1") == [[2]]
    before = lab.sql("SELECT count(*) FROM runs")
    for query in (
        "DROP TABLE runs",
        "SELECT 1; SELECT 2",
        "",
        "COPY runs TO '/tmp/x'",
        "SELEKT",
        "SELECT * FROM '/etc/passwd'",
    ):
        with pytest.raises(LabError):
            lab.call("POST", "/sql", {"query": query})
    assert lab.sql("SELECT count(*) FROM runs") == before


def test_a_deleted_run_leaves_the_database_and_comes_back_with_all_rows(lab: LabProcess) -> None:
    run_id = lab.submit(small_spec())
    count = f"SELECT count(*) FROM iterations WHERE run_id = '{run_id}'"
    wait_for(
        lambda: lab.sql(count) != [[0]] and lab.sql(f"SELECT figures FROM runs WHERE run_id = '{run_id}'") != [[None]]
    )
    before = lab.sql(count)
    lab.call("DELETE", f"/runs/{run_id}")
    wait_for(lambda: lab.sql(count) == [[0]])
    lab.call("POST", f"/runs/{run_id}/restore")
    wait_for(lambda: lab.sql(count) == before)


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("POST", "/runs/nobody/cancel", None, "unknown-run"),
        ("POST", "/runs", {"run_id": "../../etc"}, "bad-run-id"),
        ("POST", "/runs", {}, "bad-request"),
        ("POST", "/sql", {"query": "SELECT 1", "limit": 0}, "bad-request"),
        ("DELETE", "/runs/nobody", None, "unknown-run"),
        ("GET", "/runs/nobody", None, "unknown-run"),
    ],
)
def test_bad_requests_are_answered_with_what_is_wrong(
    lab: LabProcess, method: str, path: str, body: Any, kind: str
) -> None:
    with pytest.raises(LabError) as caught:
        lab.call(method, path, body)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"{",
        b"[]",
        b"7" * 5000,
        b'{"query": "\\ud800"}',
        b'{"query": NaN}',
        b"\xff\xfe",
        b'{"a":' * 50_000,
    ],
    ids=["deep list", "cut", "list", "long number", "half a surrogate pair", "NaN", "no UTF-8", "deep object"],
)
def test_a_body_that_is_no_json_object_is_answered_as_a_bad_request(lab: LabProcess, body: bytes) -> None:
    status, answer = http(lab.address, "/api/sql", method="POST", headers=bearer(lab), body=body)
    assert (status, json.loads(answer)["error"]["kind"]) == (400, "bad-request")


def test_health_is_answered_while_slow_queries_take_every_place(tmp_path: Path) -> None:
    own = LabProcess(Home(tmp_path)).start()
    body = json.dumps({"query": "SELECT count(*) FROM range(10000000000) a, range(1000) b"}).encode()
    address, headers = own.address, bearer(own)

    def ask() -> None:
        with contextlib.suppress(OSError, HTTPException):  # the lab is killed before it answers
            http(address, "/api/sql", method="POST", headers=headers, body=body)

    askers = [threading.Thread(target=ask) for _ in range(48)]
    try:
        for asker in askers:
            asker.start()
        assert http(address, "/healthz")[0] == 200
        assert all(asker.is_alive() for asker in askers)
    finally:
        own.kill()
        for asker in askers:
            asker.join()


def test_silent_strangers_do_not_keep_a_viewer_out(lab: LabProcess, finished: str) -> None:
    with contextlib.ExitStack() as strangers:
        silent = [strangers.enter_context(open_socket(lab)) for _ in range(MOST_SILENT + 8)]
        with follow(lab, finished) as client:
            assert collect(client, lambda m: "figures" in m)["figures"]
        assert json.loads(silent[0].recv(timeout=30))["kind"] == "silent"


def test_a_second_lab_on_the_same_store_says_who_has_it_and_ends(lab: LabProcess) -> None:
    second = LabProcess(lab.home).launch()
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 1
    assert lab.address.url in errors
    assert str(lab.pid) in errors


def test_ctrl_c_ends_the_run_cleanly_and_leaves_the_queue(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with lab_on(home) as lab:
        running = lab.submit(endless_spec(), "running")
        waiting = lab.submit(small_spec(), "queued")
        with follow(lab, running) as client:  # an open tab does not hold the lab up
            collect(client, lambda m: m["frame"])
            code, errors = lab.stop()
    assert code == 0
    assert "Traceback" not in errors
    assert read_status(home.run_dir(running))["state"] == "cancelled"
    assert read_status(home.run_dir(waiting))["state"] == "queued"
    assert not home.lab_file.exists()


def test_a_lab_on_a_corrupt_database_names_the_command_that_rebuilds_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    home.database.write_bytes(b"no database" * 1000)
    process = LabProcess(home).launch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "servescope reindex" in errors
    assert "Traceback" not in errors
    assert list(home.spare.iterdir()) == []


def test_an_empty_store_starts_the_starter_scenario_and_a_used_one_does_not(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with lab_on(home, "--port", "0", "--starter") as lab:
        [run_id] = home.run_ids()
        assert lab.call("GET", f"/runs/{run_id}")["scenario"] == "starter"
        wait_for_state(home, run_id, "running")
    assert read_status(home.run_dir(run_id))["state"] == "cancelled"
    with lab_on(home, "--port", "0", "--starter"):
        assert home.run_ids() == [run_id]


def test_the_warm_worker_of_a_lab_is_forked_and_no_process_of_its_own(lab: LabProcess) -> None:
    wait_for(lambda: lab.call("GET", "/status")["spare_is_ready"])
    workers = [child for child in psutil.Process(lab.pid).children() if "engine.worker" in child.cmdline()]
    assert [worker.cmdline()[-1] for worker in workers] == ["--fork-server"]
    assert len(workers[0].children()) == 1


def test_lab_json_is_for_its_owner_only(lab: LabProcess) -> None:
    assert lab.home.lab_file.stat().st_mode & 0o077 == 0


def test_a_port_that_is_taken_gives_the_next_free_one() -> None:
    port = free_port()
    with (
        listener_at("127.0.0.1", port, "servescope lab", 8) as first,
        listener_at("127.0.0.1", port, "servescope lab", 8) as second,
    ):
        assert first.getsockname() == ("127.0.0.1", port)
        assert second.getsockname()[1] > port


def test_the_lock_of_a_lab_that_is_gone_does_not_hold(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    lock = LabLock(home)
    lock.publish(LabAddress.fresh("127.0.0.1", 1))
    with pytest.raises(LabError, match="in use by the lab at"):
        LabLock(home)
    lock.release()
    assert not home.lab_file.exists()
    LabLock(home).release()
