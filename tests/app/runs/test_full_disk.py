"""On a full disk everything that makes room or takes things away works: delete, empty the trash, cancel, export elsewhere."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from row_maker import record_run
from typer.testing import CliRunner

from app.cli import app
from app.home import Home
from app.runs.folder import create_run
from telemetry.status import read_status
from tests.app.small_runs import small_spec


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A store on a small file system without a byte left."""
    root = tmp_path / "home"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(root)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        home = Home(root).prepare()
        for run_id in ("one", "two"):
            record_run(home.runs, run_id, steps=5)
        create_run(home, small_spec("waiting"))
        with contextlib.suppress(OSError), (root / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        monkeypatch.setenv("SERVESCOPE_HOME", str(root))
        yield home
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def servescope(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.output


def test_what_makes_room_works_without_any(home: Home, tmp_path: Path) -> None:
    assert home.free_bytes() == 0
    servescope("runs")
    servescope("export", "one", "-o", str(tmp_path / "one.servescope"))
    servescope("cancel", "waiting")
    assert read_status(home.run_dir("waiting"))["state"] == "cancelled"
    servescope("delete", "one")
    assert home.trashed_ids() == ["one"]
    servescope("delete", "--empty-trash")
    assert home.trashed_ids() == []
    assert home.free_bytes() > 0
