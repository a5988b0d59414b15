"""The environment names the machine's parts and nobody's machine."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

from row_maker import spooled

from telemetry.clock import RunClock
from telemetry.machine import environment, package_version
from telemetry.recorder import Recorder
from telemetry.sampler import DeviceSampler


def test_environment_has_versions_and_no_host_name() -> None:
    facts = environment("cpu", threads=2, torch_version="9.9")
    assert facts["versions"]["torch"] == "9.9"
    assert facts["versions"]["numpy"] == package_version("numpy")
    assert facts["threads"]["engine"] == 2
    assert facts["cpu"]["cores"] >= 1
    assert facts["gpu"] is None
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", json.dumps(facts))


def test_the_environment_does_not_import_torch() -> None:
    script = "import sys; from telemetry.machine import environment; environment(); print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert package_version("no-such-package-of-ours") is None


def test_cpu_samples_carry_this_process_and_this_machine(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder, DeviceSampler(recorder, "cpu", interval_ms=10) as sampler:
        while not sampler.latest:
            pass
    row = spooled(tmp_path, "device")[0]
    assert row["device"] == "cpu"
    assert row["memory_used"] == row["process_memory"] > 1 << 20
    assert row["memory_total"] > row["host_memory_available"] > 0
    assert row["power"] is None
    assert sampler.missing == {}


def test_the_run_clock_counts_from_its_own_start() -> None:
    clock = RunClock()
    first = clock.now_ns()
    assert 0 <= first <= clock.now_ns()
    assert clock.unix_ns(5) == clock.origin_unix_ns + 5
