"""Facts about the machine for a run's environment: enough to explain a figure, nothing that names whose machine it
is."""

from __future__ import annotations

import functools
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from telemetry import nvml

PACKAGES = (
    "torch",
    "triton",
    "llvmlite",
    "transformers",
    "safetensors",
    "gguf",
    "numpy",
    "pyarrow",
    "duckdb",
    "nvidia-ml-py",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(
    device: str = "cpu", *, threads: int | None = None, torch_version: str | None = None, uuid: str | None = None
) -> dict[str, Any]:
    """What a run ran on. ``threads`` is what the engine uses for arithmetic; torch is not imported to find its
    version."""
    versions = {name: package_version(name) for name in PACKAGES}
    if torch_version is not None:
        versions["torch"] = torch_version
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "versions": {name: version for name, version in versions.items() if version is not None},
        "device": device,
        "cpu": {
            "model": cpu_model(),
            "cores": usable_cores(),
            "physical_cores": psutil.cpu_count(logical=False),
            "memory_bytes": psutil.virtual_memory().total,
        },
        "threads": {"engine": threads} | {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "gpu": None,
    }
    if device.startswith("cuda"):
        try:
            facts["gpu"] = nvml.describe(int(device.partition(":")[2] or 0), uuid)
        except nvml.NvmlUnavailable as error:
            facts["gpu"] = {"unavailable": str(error)}
    return facts


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has bfloat16 products in hardware (AVX512-BF16 or AMX)."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cpu_model() -> str:
    """The processor's name as it gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """The installed version of a package, without importing it; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
