"""The engine's end of the door: one Unix socket in the run's folder, one HTTP process at its other end.

The socket is read and written between iterations by the engine's own thread and never waited for, so nothing here runs
beside a step. What an iteration gave everybody goes out as one line (``engine.config.door``). What the other end does
not take at once waits here, so a step never waits for it; the other end reads all the time and holds what its own
clients do not take.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config.door import DOOR_SOCKET, STEP_STATES, STEP_SUMS, Ask
from engine.request import Request
from engine.scores import Scores
from engine.stopping import Outputs, TextDecoder
from telemetry.clock import RunClock
from telemetry.recorder import Level, Recorder

READ_BYTES = 1 << 18
FIRST_CALL_S = 60.0  # a run nobody comes to within this time is over


class Door:
    """What clients ask, and what they are told. ``Callers`` of ``engine.arrivals``."""

    def __init__(self, run_dir: Path) -> None:
        """Listen in the run's folder. Raises OSError where that cannot be."""
        self.drop_cache: Callable[[], Mapping[str, int]] = dict
        self.hello: Mapping[str, Any] = {}  # facts of the run, told first
        self.broke_off = False  # the other end left without a word
        self._listener = listening(run_dir)
        self._peer: socket.socket | None = None
        self._read = b""
        self._unsent = bytearray()
        self._is_open = True
        self._unheard_s = FIRST_CALL_S
        self._open_numbers: set[int] = set()
        self._tokens: list[list[int]] = []
        self._scores: list[list[Any]] = []
        self._prompt_scores: list[list[Any]] = []
        self._drafted: dict[int, int] = {}  # of requests under way: guesses told so far
        self._emitting: list[tuple[Request, int, int]] = []  # since the last line: request, where its new tokens lie
        self._ended: list[dict[str, Any]] = []
        self._steps: list[dict[str, Any]] = []
        self._replies: list[dict[str, Any]] = []

    @property
    def is_open(self) -> bool:
        return self._is_open

    def heard(self) -> tuple[list[Ask], list[int]]:
        self.say()
        asks: list[Ask] = []
        given_up: list[int] = []
        for line in self._lines():
            self._understand(line, asks, given_up)
        self._open_numbers.update(ask.number for ask in asks)
        if self.broke_off:
            given_up = sorted(self._open_numbers)
        return asks, given_up

    def wait(self, seconds: float) -> None:
        if self._peer is None:
            self._unheard_s -= seconds
            if self._unheard_s < 0:
                self._is_open = False
        known = self._peer or self._listener
        select.select([known], [known] if self._unsent else [], [], seconds)

    # ---- what there is to say -----------------------------------------------------------------------------------

    def emitted(self, request: Request, count: int) -> None:
        """A request was given its last ``count`` tokens."""
        end = len(request.token_ids)
        self._emitting.append((request, end - count, end))

    def ended(self, request: Request, now_ns: int) -> None:
        self._open_numbers.discard(request.index)
        self._collect()
        self._drafted.pop(request.index, None)
        self._ended.append(
            {
                "number": request.index,
                "reason": request.end_reason,
                "error": None if request.refusal is None else request.refusal.as_dict(),
                "arrival_ns": request.arrival_ns,
                "first_scheduled_ns": request.first_scheduled_ns,
                "first_token_ns": request.first_token_ns,
                "end_ns": now_ns,
                "prompt_tokens": request.num_prompt_tokens,
                "cached_tokens": request.cached_tokens,
                "output_tokens": request.num_output_tokens,
                "preemptions": request.preemptions,
                "drafted_tokens": request.drafted_tokens,
                "accepted_tokens": request.accepted_tokens,
            }
        )

    def stepped(self, values: Mapping[str, Any]) -> None:
        """A step's columns."""
        self._steps.append({name: values[name] for name in (*STEP_STATES, *STEP_SUMS)})

    def say(self) -> None:
        """Send what there is to say, as far as the other end takes it now."""
        self._collect()
        message: dict[str, Any] = {}
        if self._tokens:
            message["tokens"] = self._tokens
        if self._scores:
            message["scores"] = self._scores
        if self._prompt_scores:
            message["prompt_scores"] = self._prompt_scores
        if self._ended:
            message["ended"] = self._ended
        if self._steps:
            message["steps"] = self._steps
        if self._peer is not None:
            for reply in [*self._replies, *([message] if message else [])]:
                self._unsent += json.dumps(reply, separators=(",", ":")).encode() + b"\n"
        self._tokens, self._ended, self._steps, self._replies = [], [], [], []
        self._scores, self._prompt_scores = [], []
        self._send()

    def close(self) -> None:
        """Say the last words and hang up; waits a few seconds for them to be taken."""
        self.say()
        if self._peer is not None:
            with contextlib.suppress(OSError):
                self._peer.settimeout(5.0)
                self._peer.sendall(self._unsent)
            self._peer.close()
        self._listener.close()

    def _collect(self) -> None:
        """Tokens that were emitted since the last look, as they are told."""
        for request, first, last in self._emitting:
            drafted = request.drafted_tokens - self._drafted.get(request.index, 0)
            self._drafted[request.index] = request.drafted_tokens
            self._tokens.append([request.index, drafted, *request.token_ids[first:last]])
            if request.scores is not None and request.scores.is_told:
                self._collect_scores(request, request.scores, last - first)
        self._emitting = []

    def _collect_scores(self, request: Request, scores: Scores, count: int) -> None:
        taken, scores.output = scores.output[:count], scores.output[count:]
        self._scores.append([request.index, taken])
        if scores.prompt:
            places = range(1, request.num_prompt_tokens)
            self._prompt_scores.append([request.index, [scores.prompt[place] for place in places]])
            scores.prompt = {}

    # ---- the socket ---------------------------------------------------------------------------------------------

    def _understand(self, line: bytes, asks: list[Ask], given_up: list[int]) -> None:
        try:
            word = json.loads(line)
            if "ask" in word:
                asks.append(Ask.model_validate(word["ask"]))
            elif "cancel" in word:
                given_up.append(int(word["cancel"]))
            elif "reset" in word:
                self._replies.append({"reset": dict(self.drop_cache())})
            elif "close" in word:
                self._is_open = False
        except (ValueError, TypeError, ValidationError) as error:
            print(f"door: a line was not understood: {str(error)[:200]}", flush=True)
            self._hang_up()

    def _lines(self) -> Sequence[bytes]:
        if self._peer is None and not self._accept():
            return ()
        assert self._peer is not None
        parts = [self._read]
        try:
            while part := self._peer.recv(READ_BYTES):
                parts.append(part)
            self._hang_up()
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
        *lines, self._read = b"".join(parts).split(b"\n")
        return lines

    def _accept(self) -> bool:
        if not self._is_open:
            return False
        try:
            self._peer, _ = self._listener.accept()
        except OSError:
            return False
        self._peer.setblocking(False)
        self._unsent += json.dumps({"hello": dict(self.hello)}).encode() + b"\n"
        self._send()
        return True

    def _send(self) -> None:
        if self._peer is None or not self._unsent:
            return
        try:
            while self._unsent:
                del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._hang_up()

    def _hang_up(self) -> None:
        self.broke_off = self.broke_off or self._is_open
        self._is_open = False
        self._unsent.clear()


class ToldOutputs(Outputs):
    """Also tells the door what each request was given."""

    def __init__(
        self, door: Door, tokenizer: TextDecoder | None, eos: Sequence[int], most: int, keep_text: bool
    ) -> None:
        super().__init__(tokenizer, eos, most, keep_text)
        self._door = door

    def append(self, request: Request, tokens: Sequence[int]) -> int:  # type: ignore[override]
        taken = super().append(request, tokens)
        self._door.emitted(request, taken)
        return taken


class ToldRecorder(Recorder):
    """Also tells the door the figures of each step."""

    def __init__(self, door: Door, run_dir: Path, level: Level, clock: RunClock) -> None:
        super().__init__(run_dir, level, clock)
        self._door = door

    def iteration(self, **values: Any) -> None:
        super().iteration(**values)
        self._door.stepped(values)


def listening(run_dir: Path) -> socket.socket:
    """A Unix socket in a folder, however long the folder's path is."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (run_dir / DOOR_SOCKET).unlink(missing_ok=True)
    folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{DOOR_SOCKET}")
    finally:
        os.close(folder)
    listener.listen(1)
    listener.setblocking(False)
    return listener
