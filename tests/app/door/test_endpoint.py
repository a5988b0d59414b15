"""A scenario asked of another server: here a door, so that both sides are known."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.home import Home
from app.runs.facts import load_run, told_apart
from telemetry.spool import SpoolReader, spool_path
from tests.app.door.door_process import DoorProcess
from tests.app.lab_process import asked_here, free_port, servescope
from tests.app.small_runs import wait_for

SCENARIO = """
title: Talks and a crowd
summary: Random tiny weights.
question: Does another server get the same requests?
engine: {model: "random:tiny", device: cpu}
workload:
  groups:
    talks:
      requests: 6
      arrivals: {kind: sessions, turns: {kind: fixed, tokens: 3}, pause: 0.01}
      prompt: {kind: dialogue, system_words: 8}
      output_tokens: {kind: fixed, tokens: 5}
      ignore_eos: true
    crowd:
      requests: 8
      arrivals: {kind: poisson, rate: 200}
      prompt: {kind: prose}
      prompt_tokens: {kind: fixed, tokens: 20}
      output_tokens: {kind: fixed, tokens: 9}
      ignore_eos: true
"""


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorProcess]:
    opened = DoorProcess.open(tmp_path_factory.mktemp("door"), "--keep-text")
    yield opened
    opened.close()


def asked(home: Home, scenario: Path, url: str) -> dict[str, Any]:
    done = servescope(home, "run", str(scenario), "--endpoint", url, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(home: Home, run_id: str, row: str = "request") -> list[dict[str, Any]]:
    parts = list(SpoolReader(spool_path(home.run_dir(run_id), row)).read())
    return pa.Table.from_batches([part.batch for part in parts]).to_pylist()


def test_another_server_gets_the_same_requests_and_two_such_runs_are_a_pair(door: DoorProcess, tmp_path: Path):
    scenario, home = tmp_path / "talks.yaml", Home(tmp_path / "home").prepare()
    scenario.write_text(SCENARIO)
    first = asked(home, scenario, door.url)
    assert first["status"] == "finished"
    assert {"foreign", "client's clock"} <= set(first["labels"])
    assert first["requests"] == {"total": 14, "finished": 14, "failed": 0, "cancelled": 0}
    assert first["output_tokens"] == 6 * 5 + 8 * 9
    assert first["ttft_ms"]["count"] == 14
    assert first["itl_ms"]["count"] == 6 * 4 + 8 * 8

    wait_for(lambda: len(door.rows("request")) == 14)
    theirs, ours = door.rows("request"), rows(home, first["run_id"])
    by_answer = {(row["prompt_tokens"], tuple(row["output_token_ids"])): row for row in theirs}
    for row in ours:
        served = by_answer[row["prompt_tokens"], tuple(row["output_token_ids"])]
        waited = served["first_token_ns"] - served["arrival_ns"]
        assert row["first_token_ns"] - row["arrival_ns"] >= waited, "the client waits at least as long as the engine"
    turns = {row["request_id"]: row for row in ours if row["group"] == "talks"}
    assert len({row["prompt_tokens"] for row in turns.values()}) > 2, "talks grow by what was really answered"

    second = asked(home, scenario, door.url)
    assert second["workload_hash"] == first["workload_hash"]
    assert second["output_digest"] == first["output_digest"] is not None
    pair = asked_here(home, "show", first["run_id"], "--beside", second["run_id"], "--json")
    assert pair.returncode == 0, pair.stderr
    assert "Both gave the same tokens." in json.loads(pair.stdout)["says"]

    theirs, again = (load_run(home, run["run_id"]) for run in (first, second))
    ours = replace(theirs, labels=())
    assert theirs.switches == "another engine, settings not known"
    assert ours.switches != theirs.switches
    assert told_apart(theirs, again) == []
    assert (told_apart(theirs, ours), told_apart(ours, theirs)) == (["another engine"], ["this lab's engine"])


def chunk(text: str, finish: str | None = None, **more: Any) -> bytes:
    """As llama.cpp's server writes one: no token ids, usage beside the last choice."""
    told = {"object": "text_completion", "choices": [{"text": text, "index": 0, "finish_reason": finish}]} | more
    return b"data: " + json.dumps(told).encode() + b"\n\n"


LLAMA_STREAM = chunk("\n") + chunk("") + chunk("ass") + chunk(
    "", "length", usage={"completion_tokens": 3, "prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 4}}
) + b"data: [DONE]\n\n"  # fmt: skip


class ClosingServer:
    """Answers one request on each connection, keeps it, and closes it without a word when it is asked again there."""

    def __init__(self) -> None:
        self.streams = self.closed = 0

    def __enter__(self) -> ClosingServer:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.create_connection(self._listening.getsockname()) as last:
            last.sendall(b"END")
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rb") as asked:
                if not (line := asked.readline()).endswith(b"\n"):
                    return
                self._skip(asked)
                if b"/v1/models" in line:
                    kind, body = b"application/json", b'{"data": [{"id": "m"}]}'
                else:
                    kind, body = b"text/event-stream", LLAMA_STREAM
                    self.streams += 1
                head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.sendall(head + body)
                self.closed += asked.readline() != b""

    @staticmethod
    def _skip(asked: Any) -> None:
        length = 0
        while (line := asked.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        asked.read(length)


def test_a_server_that_closes_kept_connections_is_asked_again_and_chunks_without_text_are_tokens(tmp_path: Path):
    crowd = SCENARIO[: SCENARIO.index("    talks:")] + SCENARIO[SCENARIO.index("    crowd:") :]
    (tmp_path / "crowd.yaml").write_text(
        crowd.replace("requests: 8", "requests: 4").replace("kind: poisson, rate: 200", "kind: closed-loop, clients: 1")
    )
    home = Home(tmp_path / "home").prepare()
    with ClosingServer() as server:
        run = asked(home, tmp_path / "crowd.yaml", server.url)
    assert run["requests"] == {"total": 4, "finished": 4, "failed": 0, "cancelled": 0}
    assert (server.streams, server.closed) == (4, 3), "each but the first was sent on the connection that was kept"
    assert (run["output_tokens"], run["itl_ms"]["count"]) == (4 * 3, 4 * 2), "the one without text is a token"
    assert [row["cached_tokens"] for row in rows(home, run["run_id"])] == [4] * 4


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("127.0.0.1:1", "bad-option"),
        ("file:///etc/passwd", "bad-option"),
        pytest.param(f"http://127.0.0.1:{free_port()}", "no-endpoint", id="nobody"),
    ],
)
def test_an_address_that_does_not_answer_makes_no_run(tmp_path: Path, url: str, kind: str):
    (tmp_path / "talks.yaml").write_text(SCENARIO)
    home = Home(tmp_path / "home").prepare()
    refused = servescope(home, "run", str(tmp_path / "talks.yaml"), "--endpoint", url, "--json")
    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["kind"], error["field"]) == (1, kind, "--endpoint")
    assert home.run_ids() == []
