"""NVML's counters, read by the real pynvml from a stub driver: present, refused, unknown to the driver, lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("nvml_stub.c")
ROOT = Path(__file__).parents[2]

READ_TWICE = """
from telemetry.nvml import NvmlDevice
device = NvmlDevice.open(0)
first, second = device.read(), device.read()
say(first=first, second=second, missing=device.missing, lost=device.lost, fast=device.fast_pcie)
device.close()
"""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a current and an old driver library."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler here to build the stub driver with")
    folders = {}
    for name, flags in {"new": [], "old": ["-DOLD_DRIVER"]}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        library = folders[name] / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", str(library), str(SOURCE)], check=True)
    return folders


def ask(folder: Path | None, script: str, **environment: str) -> dict[str, Any]:
    """Run a script against the stub in ``folder`` (or no driver at all); what it ``say``s comes back."""
    prelude = "import json, os\ndef say(**facts): print(json.dumps(facts))\n"
    # an empty folder, not none: a real driver on this machine must not answer
    path = {"LD_LIBRARY_PATH": str(folder)} if folder else {}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "STUB_"))} | path | environment
    done = subprocess.run([sys.executable, "-c", prelude + script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_counter_of_a_current_driver_is_read(stubs: dict[str, Path]) -> None:
    got = ask(stubs["new"], READ_TWICE)
    assert got["first"] | got["second"] | {"energy": 0, "pcie_tx": 0, "pcie_rx": 0} == {
        "utilization": 90,
        "memory_utilization": 40,
        "memory_used": 30000,
        "memory_total": 80000,
        "power": 650.0,  # the instantaneous field, not the one-second average
        "energy": 0,
        "sm_clock": 1980,
        "memory_clock": 3201,
        "temperature": 61,
        "throttle_reasons": 32,
        "pcie_tx": 0,
        "pcie_rx": 0,
        "sm_active": 20.0,
        "sm_occupancy": None,  # this one metric is refused by the stub
        "tensor_active": 50.0,
        "dram_active": 100.0,
    }
    assert got["first"]["energy"] == 5.0  # joules from millijoules
    assert got["first"]["pcie_tx"] is None, "a rate needs two readings"
    assert got["second"]["pcie_tx"] > 0
    assert got["first"]["sm_active"] is None, "GPM compares two samples"
    assert got["missing"] == {"sm_occupancy": "Not Supported"}
    assert got["fast"]


def test_an_old_driver_falls_back_and_says_what_it_lacks(stubs: dict[str, Path]) -> None:
    got = ask(stubs["old"], READ_TWICE)
    assert got["second"]["power"] == 300.0
    assert got["second"]["temperature"] == 55
    assert got["second"]["throttle_reasons"] == 4
    assert got["second"]["sm_active"] is None
    assert got["missing"]["sm_active"] == "Function Not Found"
    assert got["missing"]["pcie_tx"] == "Not Supported"
    assert not got["fast"]


def test_slow_pcie_counters_stand_in(stubs: dict[str, Path]) -> None:
    script = READ_TWICE.replace("say(", "slow = device.read_slow_pcie()\nsay(slow=slow, ")
    got = ask(stubs["old"], script)
    assert got["slow"] == {"pcie_tx": 10 * 1024.0, "pcie_rx": 20 * 1024.0}
    assert "once a second" in got["missing"]["pcie_tx"]


@pytest.mark.parametrize(
    ("refused", "columns"),
    [
        ("utilization", ["utilization", "memory_utilization"]),
        ("memory", ["memory_used", "memory_total"]),
        ("energy", ["energy"]),
        ("clock", ["sm_clock", "memory_clock"]),
        ("temperature", ["temperature"]),
        ("throttle", ["throttle_reasons"]),
        ("gpm", ["sm_active", "sm_occupancy", "tensor_active", "dram_active"]),
    ],
)
def test_one_refused_counter_costs_no_other(stubs: dict[str, Path], refused: str, columns: list[str]) -> None:
    got = ask(stubs["new"], READ_TWICE, STUB_REFUSE=refused)
    nulls = {name for name, value in got["second"].items() if value is None}
    assert nulls == {*columns, "sm_occupancy"}
    assert got["missing"].keys() & set(columns)


def test_a_driver_that_goes_away_nulls_what_follows(stubs: dict[str, Path]) -> None:
    got = ask(
        stubs["new"], READ_TWICE.replace("device.read()\n", "(os.environ.update(STUB_LOST='15'), device.read())[1]\n")
    )
    assert got["first"]["utilization"] == 90
    assert set(got["second"].values()) == {None}
    assert got["lost"] == "GPU is lost"
    assert got["missing"]["device"] == "lost: GPU is lost"


def test_gpm_samples_are_given_back(stubs: dict[str, Path]) -> None:
    script = READ_TWICE + "import pynvml\nsay(before=2, after=pynvml.nvmlLib.stub_samples())"
    assert ask(stubs["new"], script)["after"] == 0


def test_a_sampler_outlives_its_driver(stubs: dict[str, Path], tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from telemetry.recorder import Recorder
from telemetry.sampler import DeviceSampler
folder = Path({str(tmp_path)!r})
with Recorder(folder) as recorder, DeviceSampler(recorder, "cuda:0", interval_ms=10) as sampler:
    while sampler.latest.get("sm_active") is None: time.sleep(0.01)
    os.environ["STUB_LOST"] = "15"
    while sampler.latest["utilization"] is not None: time.sleep(0.01)
from telemetry.spool import SpoolReader, spool_path
rows = [r for item in SpoolReader(spool_path(folder, "device")).read() for r in item.batch.to_pylist()]
say(device=rows[0]["device"], seen=[r["utilization"] for r in rows], rss=rows[-1]["process_memory"], missing=sampler.missing, problem=recorder.problem)
"""
    got = ask(stubs["new"], script)
    assert got["device"] == "cuda:0"
    assert got["seen"][0] == 90
    assert got["seen"][-1] is None
    assert got["rss"] > 0, "the host's counters go on"
    assert got["missing"]["device"] == "lost: GPU is lost"
    assert got["problem"] is None


def test_no_driver_is_a_reason(tmp_path: Path) -> None:
    script = """
from telemetry import nvml
reasons = []
for call in (lambda: nvml.NvmlDevice.open(0), nvml.processes_on, nvml.missing_counters, nvml.describe):
    try: call()
    except nvml.NvmlUnavailable as error: reasons.append(str(error))
say(reasons=reasons)
"""
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"not a library")
    reasons = ask(tmp_path, script)["reasons"]
    assert len(reasons) == 4
    assert all("driver's library does not answer" in reason for reason in reasons)


def test_a_driver_that_does_not_start_is_a_reason(stubs: dict[str, Path]) -> None:
    script = (
        "from telemetry import nvml\ntry: nvml.describe()\nexcept nvml.NvmlUnavailable as error: say(reason=str(error))"
    )
    assert "Driver Not Loaded" in ask(stubs["new"], script, STUB_INIT="9")["reason"]


def test_cuda_visible_devices_is_honoured(stubs: dict[str, Path]) -> None:
    script = "from telemetry import nvml\nsay(name=nvml.describe(0)['name'])"
    assert ask(stubs["new"], script)["name"] == "Stub A"
    assert ask(stubs["new"], script, CUDA_VISIBLE_DEVICES="1,0")["name"] == "Stub B"
    assert ask(stubs["new"], script, CUDA_VISIBLE_DEVICES="GPU-second")["name"] == "Stub B"


def test_a_device_that_is_not_there_is_a_reason(stubs: dict[str, Path]) -> None:
    script = "from telemetry import nvml\ntry: nvml.describe(5)\nexcept nvml.NvmlUnavailable as error: say(reason=str(error))"
    assert "NVML knows no device 5" in ask(stubs["new"], script)["reason"]


def test_processes_and_description(stubs: dict[str, Path]) -> None:
    script = "from telemetry import nvml\np, = nvml.processes_on(0)\nsay(pid=p.pid, bytes=p.memory_bytes, **nvml.describe(0))"
    assert ask(stubs["new"], script) == {
        "pid": 4242,
        "bytes": 1234,
        "name": "Stub A",
        "driver": "600.1",
        "memory_bytes": 80000,
        "power_limit_w": 700.0,
        "sm_clock_max_mhz": 2100,
        "memory_clock_max_mhz": 3300,
    }


def test_a_device_is_found_by_the_uuid_that_cuda_tells_whole_or_a_part(stubs: dict[str, Path]) -> None:
    script = (
        "from telemetry.nvml import describe\nsay(**{uuid: describe(0, uuid)['name'] for uuid in ('second', 'slice')})"
    )
    assert ask(stubs["new"], script) == {"second": "Stub B", "slice": "Stub B"}
