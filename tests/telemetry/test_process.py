"""A process is told apart by pid, start ticks and boot, so neither a set clock nor a reused pid fools anybody."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from telemetry import process
from telemetry.process import identity_in, identity_of, is_alive, own_identity

ROOT = Path(__file__).resolve().parents[2]
HOURS_S = (-3600.0, 2.5, 3600.0)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "600"])
    yield child
    child.kill()
    child.wait()


def set_clock(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    """What a stepped wall clock looks like to a process that starts now: the boot lies at another moment."""
    boot = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + step_s)


@pytest.mark.parametrize("step_s", HOURS_S)
def test_setting_the_clock_kills_nobody(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    before = identity_of(child.pid)
    set_clock(monkeypatch, step_s)
    assert is_alive(before)
    assert identity_of(child.pid) == before


def test_a_process_that_ended_is_dead_before_and_after_it_is_reaped(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is a zombie now
    assert not is_alive(identity)
    child.wait()
    assert not is_alive(identity)
    assert not is_alive(identity_of(child.pid))


@pytest.mark.parametrize(
    "other", [{"process_start_ticks": 1}, {"boot_id": "another boot"}, {"process_start_ticks": None}]
)
def test_a_reused_pid_is_another_process(other: dict[str, Any]) -> None:
    assert is_alive(own_identity())
    assert not is_alive(own_identity() | other)


def test_what_earlier_versions_wrote_is_understood() -> None:
    began = psutil.Process().create_time()
    assert is_alive({"pid": os.getpid(), "process_start_unix": began + 1})
    assert not is_alive({"pid": os.getpid(), "process_start_unix": began - 100})
    assert is_alive({"pid": os.getpid()})
    assert not is_alive(own_identity() | {"process_start_ticks": 1, "process_start_unix": began})


@pytest.mark.parametrize("pid", [True, 0, -1, 2**31, 2**70, "1", 1.0, None, [], {}])
def test_what_is_no_pid_names_nobody(pid: Any) -> None:
    assert not is_alive({"pid": pid})


@pytest.mark.parametrize("about", [None, [], "x", 7, {}, {"pid": os.getpid(), "process_start_ticks": "1"}])
def test_what_is_no_identity_names_nobody(about: Any) -> None:
    assert not is_alive(about)


def test_a_program_with_brackets_and_spaces_in_its_name_is_read_right(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 ("
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as odd:
        try:
            since_boot_s = psutil.Process(odd.pid).create_time() - psutil.boot_time()
            assert identity_of(odd.pid)["process_start_ticks"] == round(since_boot_s * os.sysconf("SC_CLK_TCK"))
            assert is_alive(identity_of(odd.pid))
        finally:
            odd.kill()


def test_where_the_kernel_shows_no_ticks_its_own_record_of_the_start_serves(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "BOOT_ID", tmp_path / "none")
    monkeypatch.setattr(process, "STAT", str(tmp_path / "{pid}"))
    process.boot_id.cache_clear()
    try:
        identity = identity_of(child.pid)
        assert identity["boot_id"] == ""
        assert is_alive(identity)
        assert not is_alive(identity | {"process_start_ticks": 1})
        child.kill()
        child.wait()
        assert not is_alive(identity)
    finally:
        process.boot_id.cache_clear()


def test_a_files_identity_is_what_it_says_of_a_process_and_nothing_else() -> None:
    assert identity_in({"pid": 1, "process_start_unix": 2.0, "state": "running"}) == {
        "pid": 1,
        "process_start_unix": 2.0,
    }


def test_process_identity_has_one_home() -> None:
    for room in ("app", "engine", "store", "scenarios", "benchmarks", "telemetry"):
        for file in (ROOT / room).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if file != Path(process.__file__):
                assert "create_time(" not in text, f"{file} judges a process by itself"
                assert "pid_exists(" not in text, f"{file} judges a process by itself"
