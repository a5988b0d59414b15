"""A real lab server in a process of its own, for tests that talk to it, kill it and start it again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from app.cli import app as command_line
from app.home import Home
from app.lab import Lab, set_lab
from app.locks import LabAddress, running_lab
from app.runs.folder import create_run
from app.runs.process import worker_environment
from app.server.client import call
from engine.config import RunSpec
from tests.apart import apart
from tests.app.small_runs import wait_for, wait_for_state


class LabProcess:
    """``servescope lab`` on a home, on any free port."""

    def __init__(self, home: Home, *options: str) -> None:
        self.home = home.prepare()
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> LabProcess:
        """Start it and wait until it answers."""
        self._process = self.launch()
        wait_for(self._is_up)
        return self

    def launch(self) -> subprocess.Popen[str]:
        """Start it without waiting."""
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", "lab", "--no-starter", *(self._options or ("--port", "0"))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=worker_environment() | {"SERVESCOPE_HOME": str(self.home.root)},
        )

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._process.communicate()
        address = running_lab(self.home)
        return address is not None and self._process.pid == self.pid and call(address, "GET", "/status") is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> LabAddress:
        running = running_lab(self.home)
        assert running is not None
        return running

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return call(self.address, method, path, body)

    def sql(self, query: str) -> list[list[Any]]:
        return self.call("POST", "/sql", {"query": query})["rows"]

    def submit(self, spec: RunSpec, *states: str) -> str:
        """Serve a run through the lab and wait until it is in one of the states (default: finished)."""
        create_run(self.home, spec)
        self.call("POST", "/runs", {"run_id": spec.run_id})
        wait_for_state(self.home, spec.run_id, *(states or ("finished",)))
        return spec.run_id

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def stop(self) -> tuple[int, str]:
        """Ctrl-C; exit code and what it said."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        _, errors = self._process.communicate(timeout=60)
        return self._process.returncode, errors


@contextlib.contextmanager
def lab_on(home: Home, *options: str) -> Iterator[LabProcess]:
    """A lab for the length of a block."""
    lab = LabProcess(home, *options).start()
    try:
        yield lab
    finally:
        with contextlib.suppress(Exception):
            lab.stop()


def http(
    address: LabAddress,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, str]:
    """Status and text of an answer, errors included."""
    request = urllib.request.Request(address.url + path, method=method, headers=headers or {}, data=body)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")


def servescope(home: Home | None, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, run to its end."""
    own = {"SERVESCOPE_HOME": str(home.root)} if home else {}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        env=worker_environment() | own | environment,
    )


def asked_here(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line within this process, for commands that only read or refuse: a process of their own costs two seconds."""
    done = apart(lambda: CliRunner().invoke(command_line, arguments, env={"SERVESCOPE_HOME": str(home.root)}))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scenario_file(folder: Path, *, requests: int = 4, tokens: int = 8) -> Path:
    """A scenario on random tiny weights."""
    path = folder / "small.yaml"
    path.write_text(
        f"""
title: A small run
summary: Random tiny weights.
question: Does it run?
engine: {{model: "random:tiny", device: cpu, threads: 1, kv_blocks: 600, max_num_seqs: 4}}
workload:
  groups:
    all:
      requests: {requests}
      arrivals: {{kind: at-once}}
      prompt: {{kind: prose}}
      prompt_tokens: {{kind: fixed, tokens: 20}}
      output_tokens: {{kind: fixed, tokens: {tokens}}}
      ignore_eos: true
"""
    )
    return path


def own_children_of(pid: int) -> list[int]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def end(*pids: int) -> None:
    """kill -9 for processes a test made, if they still live."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def lab_here(folder: Path, *, serves_experiments: bool = True) -> Iterator[Lab]:
    """A lab within this process, as the pages find theirs, with its home in a folder; stopped at the end of the block.

    It holds no warm worker: to start one takes seconds, and most pages serve nothing.
    """
    opened = Lab(Home(folder).prepare(), LabAddress.fresh("127.0.0.1", 0))
    opened.queue.keep_spare = False
    set_lab(opened)
    opened.start()
    if not serves_experiments:
        opened.experimenter.stop()
    try:
        yield opened
    finally:
        opened.stop()
        set_lab(None)
