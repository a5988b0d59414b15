"""``servescope serve`` in a process of its own, and what a client reads of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from app.home import Home
from app.runs.process import worker_environment
from telemetry.spool import SpoolReader, spool_path
from telemetry.status import Status, read_status

SMALL = (
    "model=random:tiny",
    "device=cpu",
    "dtype=float32",
    "threads=1",
    "kv_blocks=400",
    "max_num_seqs=4",
    "check_integrity=on",
    "sampling.ignore_eos=on",
)


@dataclass
class DoorProcess:
    """A door on any free port."""

    home: Home
    process: subprocess.Popen[str]
    url: str = ""
    run_id: str = ""
    model: str = ""
    said: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, *options: str, settings: tuple[str, ...] = SMALL, **environment: str) -> DoorProcess:
        """Start one and wait until it takes requests."""
        home = Home(folder).prepare()
        given = [part for setting in settings for part in ("--set", setting)]
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--json", *given, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)} | environment,
        )
        assert process.stdout is not None
        text = ""
        while line := process.stdout.readline():
            text += line
            if line.startswith("}"):
                return cls(home, process, **json.loads(text))
        raise AssertionError(process.communicate())

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=60, **options)

    def ask_to_end(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> tuple[int, str]:
        """Exit code and what it said."""
        _, errors = self.process.communicate(timeout=90)
        return self.process.returncode, errors

    def close(self) -> tuple[int, str]:
        if self.process.poll() is None:
            self.ask_to_end()
        return self.wait()

    @property
    def run_dir(self) -> Path:
        return self.home.run_dir(self.run_id)

    @property
    def status(self) -> Status:
        return read_status(self.run_dir)

    def rows(self, row: str) -> list[dict[str, Any]]:
        parts = list(SpoolReader(spool_path(self.run_dir, row)).read())
        return pa.Table.from_batches([part.batch for part in parts]).to_pylist() if parts else []


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """A stream's chunks; every line is one, and the last says that it is the last."""
    lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines), lines
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def metric(text: str, name: str, **labels: str) -> float:
    """One sample of a metrics page."""
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        if head.partition("{")[0] == name and all(f'{key}="{label}"' in head for key, label in labels.items()):
            return float(value)
    raise AssertionError(f"no {name} {labels}")
