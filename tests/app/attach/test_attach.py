"""``servescope attach``: engines are watched over real HTTP and ZeroMQ, and what is read is said with what is not."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from app.attach import address
from app.attach.address import watched_at
from app.attach.fetch import MOST_BYTES
from app.errors import LabError
from app.home import Home
from app.rights import VIEWER, Visitor
from app.runs.process import worker_environment
from telemetry.status import read_status
from tests.apart import apart
from tests.app.attach.pages_of_engines import TEXT, Answer, engine_with, llama_cpp, serving, sglang, vllm
from tests.app.door.door_process import DoorProcess, metric
from tests.app.lab_process import asked_here, free_port, servescope
from tests.app.small_runs import wait_for


def watch(home: Home, url: str, *options: str, seconds: float = 1.6) -> dict[str, Any]:
    done = servescope(home, "attach", url, "--json", "--every", "0.2", "--seconds", str(seconds), *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def figures(result: dict[str, Any]) -> dict[str, Any]:
    return {figure["name"]: figure for figure in result["foreign"]["figures"]}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def test_vllm_is_watched_and_what_it_lost_is_said(home: Home) -> None:
    def answer(path: str, before: int) -> Answer:
        if path == "/metrics" and before in (3, 4):
            return 503, {}, b"busy"
        page = engine_with(lambda n: vllm(min(1 + n, 8)), {"/version": {"version": "0.33.0"}})
        return page(path, before)

    with serving(answer) as (url, asked):
        result = watch(home, url + "/metrics", seconds=4)
        others = watch(home, url, seconds=0.1)
    assert result["status"] == "finished"
    assert result["labels"] == ["foreign", "aggregated"]
    assert result["title"] == f"vLLM 0.33.0 at {url.removeprefix('http://')}"
    told = figures(result)
    assert told["prompt_tokens"]["value"] == 200 * 6, (
        "from the second page, which is the first of the watch, to the eighth"
    )
    assert told["ttft"]["value"] == 20 * 6
    assert told["ttft"]["p50"][1:] == [0.1, 0.5]
    assert told["running"]["value"] == 6
    assert {peer["lost"] for peer in result["foreign"]["peers"]} == {2}, "two readings that were missed"
    assert "Engine steps" in result["foreign"]["not_told"]
    assert set(asked) <= {"/metrics", "/version", "/v1/models"}, "nothing else is asked of it"
    pair = asked_here(home, "show", result["run_id"], "--beside", others["run_id"], "--json")
    assert "only sums are known" in pair.stdout + pair.stderr


def test_sglang_and_its_messages_are_watched(home: Home, tmp_path: Path) -> None:
    info = {"/server_info": {"version": "0.5.23"}, "/v1/models": {"data": [{"id": "the/model"}]}}
    events, passes = f"tcp://127.0.0.1:{free_port()}", f"ipc://{tmp_path}/fpm"
    with serving(engine_with(lambda n: sglang(1 + n), info)) as (url, _), publishing(events, passes):
        result = watch(home, url, "--kv-events", events, "--fpm", passes, seconds=3)
    told = figures(result)
    assert (result["model"], result["title"].split(" at ")[0]) == ("the/model", "SGLang 0.5.23")
    assert told["cache_hit_share"]["value"] == 0.5
    assert told["blocks_stored"]["value"] > 10
    assert told["forward_s"]["value"] == pytest.approx(0.02)
    assert (told["forward_s"]["clock"], told["blocks_stored"]["clock"]) == ("gpu span", "engine wall")
    lost = {peer["source"]: peer["lost"] for peer in result["foreign"]["peers"]}
    assert lost["metrics"] == 0
    assert lost["kv_events"] > 0
    assert lost["forward_pass"] > 0, "every tenth number is left out"


class publishing:
    """Two publishers that leave out every tenth message."""

    def __init__(self, events: str, passes: str) -> None:
        self.addresses = events, passes
        self.over = threading.Event()

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.PUB) as events, context.socket(zmq.PUB) as passes:
            for socket, where in zip((events, passes), self.addresses, strict=True):
                socket.set(zmq.LINGER, 0)
                socket.bind(where)
            number = 0
            while not self.over.is_set():
                number += 1
                if number % 10:
                    batch = [time.time(), [["BlockStored", [number], None, [1] * 16, 16, None, "GPU"]], 0]
                    events.send_multipart([b"", struct.pack(">q", number), msgpack.packb(batch)])
                    told = {"version": 1, "counter_id": number, "wall_time": 0.02, "dp_rank": 0}
                    passes.send_multipart([b"", struct.pack(">q", number), msgpack.packb(told)])
                time.sleep(0.02)


def test_llama_cpp_is_watched(home: Home) -> None:
    with serving(engine_with(lambda n: llama_cpp(1 + n), {"/props": {"build_info": "b9999-abc"}})) as (url, _):
        told = figures(result := watch(home, url))
    assert result["title"].startswith("llama.cpp b9999-abc")
    assert (told["running"]["value"], told["waiting"]["value"]) == (2, 4)
    assert told["steps"]["value"] / told["output_tokens"]["value"] == pytest.approx(7000 / 7801)
    assert "ttft" not in told
    assert "TTFT" in result["foreign"]["not_told"]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorProcess]:
    opened = DoorProcess.open(tmp_path_factory.mktemp("door"))
    yield opened
    opened.close()


def test_a_real_peer_the_labs_own_door_agrees_with_its_rows(home: Home, door: DoorProcess) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "attach", door.url, "--json", "--every", "0.2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
    )

    def readings() -> int:
        progress = [read_status(home.run_dir(run_id)).get("progress") for run_id in home.run_ids()]
        return int(progress[0].get("readings", 0)) if progress and progress[0] else 0

    wait_for(lambda: readings() > 0)
    with door.client() as client:
        for tokens in (5, 9, 14):
            client.post("/v1/completions", json={"prompt": "Once", "max_tokens": tokens}).raise_for_status()
    before = readings()
    wait_for(lambda: readings() > before + 1)
    process.send_signal(signal.SIGTERM)
    result = json.loads(process.communicate(timeout=60)[0])
    assert (process.returncode, result["status"]) == (0, "finished")
    told = figures(result)
    assert result["title"].startswith("ServeScope ")
    assert told["output_tokens"]["value"] == 28
    assert told["requests_done"]["value"] == told["ttft"]["value"] == 3
    with door.client() as client:
        page = client.get("/metrics").text
    assert metric(page, "vllm:generation_tokens_total") == 28
    rows = [row for row in door.rows("request") if row["first_token_ns"]]
    mean = sum(row["first_token_ns"] - row["arrival_ns"] for row in rows) / len(rows) / 1e9
    assert told["ttft"]["mean"] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("127.0.0.1:8000", "URL"),
        ("file:///etc/passwd", "URL"),
        ("ftp://127.0.0.1/", "URL"),
        ("http://127.0.0.1:99999", "URL"),
        ("http://user:word@127.0.0.1:1", "URL"),
        ("http://127.0.0.1:1/?x=1", "URL"),
        ("http://10.0.0.1:8000", "URL"),
        ("http://example.org", "URL"),
        ("http://127.0.0.1.example.org", "URL"),
        ("http://localhost.example.org", "URL"),
        ("http://169.254.169.254/latest", "URL"),
        ("http://0.0.0.0:8000", "URL"),
        ("http://[::ffff:10.0.0.1]:8000", "URL"),
        ("http://2130706433/", "URL"),
        ("http://127.0.0.1:80\n.example.org", "URL"),
    ],
)
def test_addresses_that_are_none_or_lie_elsewhere_are_refused(url: str, field: str) -> None:
    with pytest.raises(LabError) as refused:
        watched_at(url)
    assert (refused.value.kind, refused.value.field) == ("bad-option", field)
    assert refused.value.mend


@pytest.mark.parametrize("given", ["tcp://127.0.0.1", "tcp://10.0.0.1:5557", "ipc://relative", "ipc:///etc/passwd", "udp://127.0.0.1:1", "tcp://*:5557"])  # fmt: skip
def test_publishers_that_are_none_or_lie_elsewhere_are_refused(given: str) -> None:
    for option in ("kv_events", "fpm"):
        with pytest.raises(LabError) as refused:
            watched_at("http://127.0.0.1:1", **{option: given})
        assert refused.value.field == f"--{option.replace('_', '-')}"


def test_other_machines_are_taken_where_the_command_line_says_so_but_no_metadata_service() -> None:
    assert watched_at("https://engine.example.org:8000/v1", beyond=True).url == "https://engine.example.org:8000"
    with pytest.raises(LabError):
        watched_at("http://169.254.169.254", beyond=True)


def test_a_viewer_names_no_address_whatever_they_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "visitor", lambda: Visitor(VIEWER, "anna"))
    monkeypatch.setattr(address, "require", lambda right: None)  # a presenter lets viewers start runs
    with pytest.raises(LabError) as refused:
        watched_at("http://127.0.0.1:8000")
    assert refused.value.kind == "not-allowed"


def endless(path: str, before: int) -> Answer:
    return 200, TEXT, b"# x\n" * (MOST_BYTES // 4 + 10)


REFUSED: dict[str, tuple[Any, str]] = {
    "a redirect": (lambda path, before: (302, {"location": "http://127.0.0.1:1/metrics"}, b""), "redirects are not followed"),
    "an error": (lambda path, before: (500, {}, b"x"), "HTTP 500"),
    "too much": (endless, "more than 8 MiB"),
    "JSON": (lambda path, before: (200, TEXT, b"[1]"), "no Prometheus text"),
    "no metrics": (lambda path, before: (200, TEXT, b"hello world !\n"), "no page of metrics: line 1"),
    "another program": (lambda path, before: (200, TEXT, b"go_threads 3\n"), "no engine that is known"),
    "nothing": (lambda path, before: (200, TEXT, b""), "empty"),
    "packed": (lambda path, before: (200, TEXT | {"content-encoding": "gzip"}, b"x"), "packed"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_server_that_is_no_engine_makes_no_run(home: Home, what: str) -> None:
    from app.attach.watch import attach

    answer, words = REFUSED[what]
    with serving(answer) as (url, asked), pytest.raises(LabError) as refused:
        apart(lambda: attach(home, watched_at(url)))
    assert refused.value.kind == "no-engine"
    assert words in refused.value.message
    assert set(asked) == {"/metrics"}
    assert home.run_ids() == []


def test_a_server_that_is_silent_is_given_up(home: Home) -> None:
    over = threading.Event()

    def answer(path: str, before: int) -> Answer:
        over.wait(20)
        return 200, TEXT, b""

    with serving(answer) as (url, _):
        done = servescope(home, "attach", url, "--json")
        over.set()
    assert done.returncode == 1
    assert "did not come within" in json.loads(done.stdout)["error"]["message"]


def test_nobody_there_and_a_wrong_option_are_said_by_name(home: Home) -> None:
    for arguments, field in (
        ([f"http://127.0.0.1:{free_port()}"], "URL"),
        (["http://127.0.0.1:1", "--device", "gpu"], "--device"),
    ):
        done = servescope(home, "attach", *arguments, "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["field"] == field
