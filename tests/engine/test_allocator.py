"""What an engine process takes of the machine: cores, and memory settings: kept memory is used again, and what the user says about the allocator stays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import psutil
import pytest

from app.runs.process import worker_environment
from engine.config import allocator
from engine.model.device import usual_threads

FAULTS = """
import resource, torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
before = faults()
for _ in range(4):
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
print(faults() - before)
"""


def test_what_the_user_says_stays() -> None:
    environment = allocator.with_tunables({"GLIBC_TUNABLES": "glibc.malloc.mmap_max=7:glibc.cpu.x=1", "A": "b"})
    parts = environment["GLIBC_TUNABLES"].split(":")
    assert parts[:2] == ["glibc.malloc.mmap_max=7", "glibc.cpu.x=1"]
    assert {part.split("=")[0] for part in parts[2:]} == set(allocator.TUNABLES) - {"glibc.malloc.mmap_max"}
    assert environment["A"] == "b"
    assert allocator.with_tunables(environment) == environment


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.rare
def test_a_worker_does_not_fault_in_a_large_tensor_again_and_again() -> None:
    def run(environment: dict[str, str]) -> int:
        script = [sys.executable, "-c", FAULTS]
        return int(subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout)

    plain = {name: value for name, value in os.environ.items() if name != allocator.VARIABLE}
    kept = worker_environment()
    assert run(kept) < run(plain) / 10


@pytest.mark.parametrize(("cores", "allowed", "threads"), [(1, 1, 1), (2, 2, 1), (8, 8, 7), (64, 3, 2), (None, 4, 1)])
def test_a_core_is_left_for_the_page(
    cores: int | None, allowed: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    assert usual_threads() == threads
