"""One engine process: started warm, handed a run, watched, ended.

Every worker starts as a spare (``python -m engine.worker --spare``, or a fork of a process that has done its imports):
it makes ready what any run needs and waits for one line on its standard input, the run's folder. Until then it belongs
to the process that started it, and ends with it (end of input). From then on it is on its own, in its own session and
with its output in a file, so the run outlives a lab that is killed, and the next lab takes it over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import app
from app.home import Home
from app.runs import fork_server
from app.runs.fork_server import ForkServer, server_for
from engine.config.allocator import with_tunables
from telemetry.process import Identity, identity_in, identity_of, is_alive, own_identity, start_ticks
from telemetry.status import read_status, write_status

SOURCE_ROOT = Path(app.__file__).resolve().parent.parent
LOG = "worker.log"


class EngineProcess:
    """A worker of this process (``start``) or a survivor of an earlier one (``adopt``)."""

    def __init__(self, identity: Identity, pipe: IO[bytes] | None = None, log: Path | None = None) -> None:
        self.identity = identity
        self._pipe = pipe  # a waiting spare's standard input
        self._log = log

    @staticmethod
    def start(home: Home, environment: Mapping[str, str]) -> EngineProcess:
        """Start a warm worker that waits for a run."""
        mine = own_identity()
        log = home.spare / f"{mine['pid']}-{mine['process_start_ticks']}-{uuid.uuid4().hex[:8]}.log"
        server = server_for(environment)
        with log.open("xb") as output:
            if server is not None and server.is_ready:
                with contextlib.suppress(OSError):
                    return _Forked(server, output, log)
            return _Executed(environment, output, log)

    @classmethod
    def adopt(cls, run_dir: Path) -> EngineProcess:
        """The living worker that ``status.json`` names, started by a supervisor that is gone."""
        return cls(identity_in(read_status(run_dir)))

    @property
    def pid(self) -> int:
        return int(self.identity["pid"])

    def is_alive(self) -> bool:
        return is_alive(self.identity)

    @property
    def is_ready(self) -> bool:
        """Whether a waiting spare has said that its imports are done."""
        return self._log is not None and self._log.is_file() and b"ready" in self._log.read_bytes()

    def serve(self, run_dir: Path) -> None:
        """Hand the run over.

        The status names this process before it learns of the run: a run that is served never lacks an owner on disk.
        """
        assert self._pipe is not None
        assert self._log is not None
        write_status(run_dir, state="starting", started_unix_ns=time.time_ns(), **self.identity)
        self._log.replace(run_dir / LOG)
        self._log = None
        with contextlib.suppress(BrokenPipeError), self._pipe as pipe:
            _send_line(pipe, str(run_dir))

    def exit_code(self) -> int | None:
        """Exit status of an ended child (negative: the signal that ended it); None while it runs and for survivors."""
        return None

    def terminate(self) -> None:
        """Ask it to finish the iteration, flush and exit."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, with every process of its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.is_alive() and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGKILL)
                return
        self._signal(signal.SIGKILL)

    def dismiss(self) -> None:
        """Send a waiting spare away and remove its output."""
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError, OSError):
                self._pipe.close()
            self.kill()
            self._wait()
        if self._log is not None:
            self._log.unlink(missing_ok=True)

    def _signal(self, number: int) -> None:
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _wait(self) -> None:
        """Wait for the end of a worker that was killed."""


class _Executed(EngineProcess):
    """A new process, this one's child."""

    def __init__(self, environment: Mapping[str, str], output: IO[bytes], log: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "engine.worker", "--spare"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=SOURCE_ROOT,
            env=dict(environment),
            start_new_session=True,
        )
        super().__init__(identity_of(self._child.pid), self._child.stdin, log)

    def is_alive(self) -> bool:
        return self._child.poll() is None

    def exit_code(self) -> int | None:
        return self._child.poll()

    def _wait(self) -> None:
        self._child.wait()


class _Forked(EngineProcess):
    """A child of the process that has done the imports.

    Raises ``OSError`` when that process is gone.
    """

    def __init__(self, server: ForkServer, output: IO[bytes], log: Path) -> None:
        self._server = server
        theirs, ours = os.pipe()
        try:
            pid = server.fork(theirs, output.fileno())
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        super().__init__(identity_of(pid), os.fdopen(ours, "wb"), log)

    def exit_code(self) -> int | None:
        return None if self.is_alive() else self._server.code_of(self.pid)

    def _wait(self) -> None:
        self._server.code_of(self.pid)


def start_fork_server(environment: Mapping[str, str]) -> None:
    """Have a process ready that the workers of several runs are forked from."""
    fork_server.start(SOURCE_ROOT, environment)


def imports_are_under_way(environment: Mapping[str, str]) -> bool:
    """Whether a worker would start sooner a little later."""
    server = server_for(environment)
    return server is not None and not server.is_ready


def sweep_logs(home: Home) -> None:
    """Remove what spares wrote whose supervisor is gone; a killed lab leaves such files."""
    for log in home.spare.glob("*-*.log"):
        pid, ticks, *_ = log.name.split("-")
        if pid.isdigit() and ticks != str(start_ticks(int(pid))):
            log.unlink(missing_ok=True)


def log_tail(run_dir: Path, lines: int = 20, most_bytes: int = 16_384) -> list[str]:
    """The last lines of the worker's output that hold something; [] without a log."""
    try:
        with (run_dir / LOG).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most_bytes))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def _send_line(pipe: IO[bytes], text: str) -> None:
    pipe.write(text.encode() + b"\n")
    pipe.flush()


def worker_environment() -> dict[str, str]:
    """This process's environment, with ServeScope importable whatever the working directory and the engine's memory
    settings.
    """
    path = [str(SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return with_tunables(os.environ) | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
