"""Doors that are open on a store: found by the page, opened and closed by it.

A door is a process of its own (``servescope serve``), whoever started it. While it takes requests its run's folder
holds ``door.json``: where it answers, and which process it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from app.door.session import served_spec
from app.home import ENV, Home
from app.rights import Right, needs
from app.runs.process import SOURCE_ROOT, worker_environment
from scenarios.build import new_run_id
from telemetry.json_file import Unreadable, plain, read_as, write_json
from telemetry.process import is_alive, own_identity
from telemetry.status import Identity, Label

FILE = "door.json"
KEY_VARIABLE = "SERVESCOPE_API_KEY"
_launched: dict[str, subprocess.Popen[bytes]] = {}  # by this process, by run


class OpenDoor(Identity):
    """``door.json``."""

    run_id: Label
    url: Annotated[str, Field(pattern=r"^http://(127\.0\.0\.1|\[::1\]|localhost):\d{1,5}$")]
    model: Annotated[str, Field(max_length=4096)]
    key: Label = ""


def publish(run_dir: Path, url: str, model: str, key: str) -> None:
    """Say where this process answers; nothing where it is not on this machine's own interface."""
    with contextlib.suppress(ValueError, OSError):
        write_json(run_dir / FILE, OpenDoor(run_id=run_dir.name, url=url, model=model, key=key, **own_identity()))


def withdraw(run_dir: Path) -> None:
    """The door is closed."""
    with contextlib.suppress(OSError):
        (run_dir / FILE).unlink(missing_ok=True)


def open_doors(home: Home) -> list[OpenDoor]:
    """Every door that is open, the newest first."""
    found = []
    for run_id in sorted(home.run_ids(), reverse=True):
        with contextlib.suppress(FileNotFoundError, Unreadable):
            door = read_as(OpenDoor, home.run_dir(run_id) / FILE)
            if door.run_id == run_id and is_alive(plain(door)):
                found.append(door)
    return found


@needs(Right.START)
def launch(
    home: Home, settings: dict[str, str], *, keep_text: bool = False, key: str = "", shared: bool = False
) -> str:
    """Begin to open a door in a process of its own; the id of its run. ``shared``: beside another one on its device.

    Raises ``ConfigError`` or ``LabError`` for settings that cannot be.
    """
    served_spec(settings, keep_text=keep_text, shared=shared)
    run_id = new_run_id()
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    options = ["--run-id", run_id, "--port", "0", "--json", *(["--keep-text"] if keep_text else [])]
    options += [*(["--share-device"] if shared else []), *given]
    for old in home.spare.glob("door-*.log"):
        old.unlink(missing_ok=True)
    with log_of(home, run_id).open("xb") as output:
        _launched[run_id] = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=SOURCE_ROOT,
            env=worker_environment() | {ENV: str(home.root), KEY_VARIABLE: key},
            start_new_session=True,
        )
    return run_id


@needs(Right.CANCEL)
def close(door: OpenDoor) -> None:
    """Ask a door to answer what is open and end."""
    if is_alive(plain(door)) and door.pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(door.pid, signal.SIGTERM)


def has_failed(run_id: str) -> bool:
    """Whether a door that was launched here has ended."""
    process = _launched.get(run_id)
    return process is None or process.poll() is not None


def log_of(home: Home, run_id: str) -> Path:
    """What a launched door says."""
    return home.spare / f"door-{run_id}.log"
