"""The process that this one's workers are forked from (``engine.fork_server``), as their supervisor sees it.

One for each process that serves several runs, started once and left to end with it. Where there is a GPU, each worker
is a new process instead: a driver's state must not be forked.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from app.devices import gpu_count

REPORT_S = 2.0  # a worker that is gone is reaped and reported within this


class ForkServer:
    """A started server. Threads may share it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.worker", "--fork-server"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=directory,
                env=dict(environment),
                start_new_session=True,
            )
        self._lock = threading.Lock()
        self._ready = False
        self._started: list[int] = []
        self._codes: dict[int, int] = {}

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether its imports are done."""
        with self._lock:
            self._hear(0.0)
            return self._ready and self.is_alive

    def fork(self, given_input: int, output: int) -> int:
        """Start a worker with these files as its standard input and output; its pid.

        Raises:
            OSError: the server is gone.
        """
        with self._lock:
            socket.send_fds(self._control, [b"."], [given_input, output])
            while not self._started:
                if not self._hear(None):
                    raise ConnectionError("the process that workers are forked from is gone")
            return self._started.pop()

    def code_of(self, pid: int) -> int | None:
        """Exit status of a worker that has ended (negative: the signal that ended it); None if it cannot be known."""
        until = time.monotonic() + REPORT_S
        with self._lock:
            while pid not in self._codes and self._hear(max(0.0, until - time.monotonic())):
                continue
            return self._codes.get(pid)

    def _hear(self, wait_s: float | None) -> bool:
        """Take in one message, waiting for it at most ``wait_s`` (None: as long as it takes); False without one."""
        self._control.settimeout(wait_s)
        try:
            packet = self._control.recv(4096)
        except (TimeoutError, BlockingIOError, ConnectionError):
            return False
        if not packet:
            return False
        message = json.loads(packet)
        self._ready = self._ready or "ready" in message
        if "started" in message:
            self._started.append(message["started"])
        if "ended" in message:
            self._codes[message["ended"]] = message["code"]
        return True


_here: list[tuple[Mapping[str, str], ForkServer]] = []  # one, once it is started
_lock = threading.Lock()


def start(directory: Path, environment: Mapping[str, str]) -> None:
    """Have a server of this environment running, in place of one of another; except on a machine with a GPU.

    One that died is not started again. One that was replaced ends when the last of its workers is forgotten.
    """
    with _lock:
        if gpu_count() == 0 and (not _here or _here[0][0] != environment):
            _here[:] = [(dict(environment), ForkServer(directory, environment))]


def server_for(environment: Mapping[str, str]) -> ForkServer | None:
    """This process's server, if it lives and was started in the same environment; its imports may not be done yet."""
    with _lock:
        if _here and _here[0][0] == environment and _here[0][1].is_alive:
            return _here[0][1]
    return None
