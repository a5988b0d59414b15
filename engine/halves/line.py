"""What the two halves say to each other, over a pair of sockets between processes of one run."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from engine.config.errors import EngineError
from engine.halves.shared import Store

CLOSING_S = 5.0
_END = object()


class HalfLost(EngineError):
    """The other half's process is gone without a word."""

    def __init__(self, half: str) -> None:
        super().__init__(
            "crashed",
            "placement",
            half,
            f"The process of the {half} half ended without saying why (it was killed, or ran out of memory).",
            "See worker.log in the run's folder; what was recorded until then is kept.",
        )


class Begin(NamedTuple):
    """To the prefill half: the clock has started."""

    origin_monotonic_ns: int
    origin_unix_ns: int


class Prefill(NamedTuple):
    """To the prefill half: compute this request's prompt and its first token."""

    request: int
    prompt: Sequence[int]
    arrival_ns: int


class GiveUp(NamedTuple):
    """To the prefill half: nobody waits for this request any more. Not after it was handed over."""

    request: int


class Free(NamedTuple):
    """To the prefill half: the blocks that it handed over for this request are not needed any more."""

    request: int


class Ready(NamedTuple):
    """From the prefill half, once: what it can hold, and where that lies."""

    blocks: int
    stores: Sequence[Store]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Prefilled:
    """A request whose prompt is computed: its first token, and where its keys and values lie."""

    request: int
    token: int
    blocks: Sequence[int]  # of the prefill half's pool, by place in its table
    checksums: Sequence[int]  # of each of them
    first_scheduled_ns: int
    first_token_ns: int
    cached_tokens: int


class Call(NamedTuple):
    """A method of the recorder, and what it was called with."""

    name: str
    args: Sequence[Any]
    values: Mapping[str, Any]


class Report(NamedTuple):
    """From the prefill half: its rows since the last report, who is handed over, and how it stands now."""

    calls: Sequence[Call]
    prefilled: Sequence[Prefilled]
    state: Mapping[str, int]


class Failed(NamedTuple):
    """From the prefill half, at its end: why."""

    error: Mapping[str, Any]


class Line:
    """One end of the pair. Messages are pickled: both ends are processes of ours.

    A thread writes, so neither end ever waits for the other to read.
    """

    def __init__(self, end: socket.socket, other: str) -> None:
        """``other``: the half at the other end, in the words of ``HalfLost``."""
        self._connection = Connection(end.detach())
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="line", daemon=True)
        self._writer.start()
        self._unread: list[Any] = []
        self.other = other
        self.is_open = True

    def send(self, message: object) -> None:
        """Say something; where nobody is left to read it, ``received`` will say so."""
        self._outbox.put(message)

    def received(self, wait_s: float = 0.0) -> list[Any]:
        """What has come by now, or else comes first within ``wait_s``.

        Raises:
            HalfLost: the other end is closed; what came before was returned.
        """
        messages, self._unread = self._unread, []
        try:
            while self._connection.poll(0.0 if messages else wait_s):
                messages.append(self._connection.recv())
        except (EOFError, OSError) as error:
            self.is_open = False
            if not messages:
                raise HalfLost(self.other) from error
        return messages

    def put_back(self, messages: list[Any]) -> None:
        """Messages that were received are received again, before what comes next."""
        self._unread = messages + self._unread

    def close(self) -> None:
        """Close this end, after what was said, as far as that is read within some seconds."""
        self._outbox.put(_END)
        self._writer.join(timeout=CLOSING_S)
        self.is_open = False
        self._connection.close()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # nobody is left to read
            while (message := self._outbox.get()) is not _END:
                self._connection.send(message)


def line_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends, for a ``Line`` each."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
