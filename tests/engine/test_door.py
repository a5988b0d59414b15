"""The engine's end of the door: what clients ask arrives in the running loop, and everybody hears what an iteration gave them."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import worker
from engine.config import EngineConfig, PrefixSharing, RequestSpec, RunSpec, Sampling
from engine.config.door import DOOR_SOCKET, Ask
from tests.engine.test_worker import rows, status, wait_for

TINY = EngineConfig(
    model="random:tiny",
    device="cpu",
    dtype="float32",
    threads=1,
    kv_blocks=64,
    max_num_seqs=4,
    prefix_sharing=PrefixSharing(),
    check_integrity=True,
    sampling=Sampling(ignore_eos=True),
)


class Caller:
    """The other end of the socket, line by line."""

    def __init__(self, run_dir: Path) -> None:
        folder = os.open(run_dir, os.O_RDONLY)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"/proc/self/fd/{folder}/{DOOR_SOCKET}")
        self.socket.settimeout(60)
        os.close(folder)
        self.lines = self.socket.makefile("rb")
        self.tokens: dict[int, list[int]] = {}
        self.ended: dict[int, dict[str, Any]] = {}
        self.hello = self.next()["hello"]
        self.has_left = False

    def say(self, **words: Any) -> None:
        self.socket.sendall(json.dumps(words).encode() + b"\n")

    def ask(self, number: int, **values: Any) -> None:
        own = {
            name: values.pop(name)
            for name in ("stop_token_ids", "min_tokens", "logprobs", "prompt_logprobs")
            if name in values
        }
        defaults = {"request_id": f"c{number}", "prompt_token_ids": tuple(range(5, 45)), "max_tokens": 6}
        ask = Ask(number=number, request=RequestSpec(**(defaults | values)), came_ns=time.monotonic_ns(), **own)
        self.say(ask=ask.model_dump(mode="json"))

    def next(self) -> dict[str, Any]:
        message = json.loads(self.lines.readline() or b'{"gone": true}')
        for number, _, *tokens in message.get("tokens", ()):
            self.tokens.setdefault(number, []).extend(tokens)
        self.ended |= {about["number"]: about for about in message.get("ended", ())}
        return message

    def hang_up(self) -> None:
        self.has_left = True
        self.lines.close()
        self.socket.close()

    def until(self, *numbers: int) -> None:
        while not set(numbers) <= self.ended.keys():
            assert "gone" not in self.next(), self.ended


@contextmanager
def served(run_dir: Path, monkeypatch: pytest.MonkeyPatch, **engine: Any) -> Iterator[Caller]:
    """An engine at work in a thread, and a caller; at the end of the block the door is closed, if it is not yet."""
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    run_dir.mkdir()
    spec = RunSpec(run_id=run_dir.name, scenario="served", served=True, engine=TINY.model_copy(update=engine))
    (run_dir / "spec.json").write_text(spec.model_dump_json())
    at_work = threading.Thread(target=worker.run, args=[run_dir])
    at_work.start()
    try:
        wait_for(lambda: (run_dir / DOOR_SOCKET).exists() and status(run_dir)["state"] == "running")
        caller = Caller(run_dir)
        yield caller
        if not caller.has_left:
            caller.say(close=True)
            while "gone" not in caller.next():
                pass
    finally:
        at_work.join(60)
    assert not at_work.is_alive()


def test_what_is_told_is_what_the_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with served(tmp_path / "told", monkeypatch) as caller:
        assert (caller.hello["max_num_seqs"], caller.hello["kv_blocks"]) == (4, 64)
        for number in range(6):
            caller.ask(number, prompt_token_ids=tuple(range(5, 45 + number)))
        caller.until(*range(6))
        caller.say(reset=True)
        while "reset" not in (reply := caller.next()):
            pass
        assert reply["reset"]["dropped"] > 0
        assert reply["reset"]["held"] == 0
    final = status(tmp_path / "told")
    assert (final["state"], final["error"]) == ("finished", None)
    assert final["summary"]["requests"] == {"total": 6, "finished": 6, "cancelled": 0, "failed": 0}
    recorded = {row["request"]: row for row in rows(tmp_path / "told", "request")}
    assert {number: row["output_token_ids"] for number, row in recorded.items()} == caller.tokens
    for number, row in recorded.items():
        told = caller.ended[number]
        for name in ("arrival_ns", "first_scheduled_ns", "first_token_ns", "cached_tokens", "output_tokens"):
            assert told[name] == row[name], name
        assert row["arrival_ns"] < row["first_scheduled_ns"] < row["first_token_ns"]
    assert sum(row["emitted_tokens"] for row in rows(tmp_path / "told", "iteration")) == 36


def test_stop_tokens_and_least_lengths_end_an_answer_where_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with served(tmp_path / "stop", monkeypatch) as caller:
        caller.ask(0, max_tokens=8)
        caller.until(0)
        words = caller.tokens[0]
        stop = words[3]
        first = words.index(stop)
        caller.ask(1, max_tokens=8, stop_token_ids=(stop,))
        caller.ask(2, max_tokens=8, stop_token_ids=(stop,), min_tokens=first + 1)
        caller.until(1, 2)
    assert caller.tokens[1] == words[: first + 1]
    assert caller.ended[1]["reason"] == "stop"
    assert caller.tokens[2][: first + 2] == words[: first + 2], "the stop token came too early to end it"
    texts = {row["request"]: row["text"] for row in rows(tmp_path / "stop", "request")}
    assert len(texts[1] or "") == first, "the stop token is no part of the text"


def test_who_leaves_takes_no_place_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The books are checked after every step."""
    with served(tmp_path / "left", monkeypatch, keep_text=False) as caller:
        for number in range(8):
            caller.ask(number, max_tokens=400)
        while len(caller.tokens) < 4:
            caller.next()
        for number in (0, 2, 5, 7, 99):
            caller.say(cancel=number)
        caller.until(0, 2, 5, 7)
        assert all(caller.ended[number]["reason"] == "cancelled" for number in (0, 2, 5, 7))
        caller.ask(8, prompt_token_ids=tuple([7] * 5000))
        caller.until(8)
        assert caller.ended[8]["error"]["kind"] == "prompt-too-long"
        caller.until(1, 3, 4, 6)
    final = status(tmp_path / "left")
    assert final["summary"]["requests"] == {"total": 9, "finished": 4, "cancelled": 4, "failed": 1}
    assert final["progress"]["kv_used_share"] == 0
    kept = rows(tmp_path / "left", "request")
    assert {row["text"] for row in kept} == {None}, "text is kept where it is asked for, only"
    assert {row["output_token_ids"] for row in kept} == {None}


def test_a_caller_that_breaks_off_ends_everything_it_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with served(tmp_path / "off", monkeypatch) as caller:
        for number in range(6):
            caller.ask(number, max_tokens=900)
        while not caller.tokens:
            caller.next()
        caller.hang_up()
    final = status(tmp_path / "off")
    assert final["summary"]["requests"] == {"total": 6, "finished": 0, "cancelled": 6, "failed": 0}
    assert final["progress"]["kv_used_share"] == 0
