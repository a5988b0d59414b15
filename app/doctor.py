"""What this machine has, what it lacks, and the command that mends it. Nothing here changes anything."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from app.errors import LabError
from app.home import ENV, LEAST_FREE_BYTES, Home
from app.locks import database_lock, running_lab
from app.runs.process import SOURCE_ROOT, worker_environment

State = Literal["ok", "note", "broken"]
GIB = 2**30
PROBE_TIMEOUT_S = 120
LEAST_MEMORY_BYTES = GIB
OWN_PACKAGES = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)$")
PROBE = """
import json, torch
devices = [
    {"name": p.name, "memory_bytes": p.total_memory, "capability": f"{p.major}.{p.minor}"}
    for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count() if torch.cuda.is_available() else 0))
]
from telemetry.machine import cpu_multiplies_bfloat16
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "devices": devices,
                  "threads": torch.get_num_threads(), "cpu_bf16": cpu_multiplies_bfloat16()}))
"""


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``note``: works without it, and ``detail`` says what is lost; ``broken``: mend it first."""

    name: str
    state: State
    detail: str
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(home: Home) -> Iterator[Check]:
    """Every check, one after the other; the slow one (torch in a process of its own) included."""
    looks: tuple[Callable[[], Iterator[Check]], ...] = (
        _python,
        _packages,
        _devices,
        _gpu_counters,
        _memory,
        lambda: _folder(home),
        _model,
        _speed,
        _browser,
        lambda: _lab(home),
        lambda: _database(home),
    )
    for look in looks:
        yield from look()


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    yield Check("python", "ok" if fine else "broken", version, "" if fine else "make lab PYTHON=python3.12")


def _packages() -> Iterator[Check]:
    """Installed versions against ``constraints.txt``, where ServeScope runs from its source."""
    constraints = SOURCE_ROOT / "constraints.txt"
    if not constraints.is_file():
        yield Check("packages", "note", "no constraints.txt here to compare with")
        return
    other, missing = [], []
    wanted_names = _required_names()
    for line in constraints.read_text().splitlines():
        match = OWN_PACKAGES.match(line.strip())
        if match is None:
            continue
        name, wanted = match["name"], match["version"]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if _canonical(name) in wanted_names:
                missing.append(name)
            continue
        if version.partition("+")[0] != wanted:
            other.append(f"{name} {version} (tested: {wanted})")
    if missing:
        yield Check("packages", "broken", f"not installed: {', '.join(missing)}", "make setup")
    elif other:
        yield Check("packages", "note", f"other versions than tested: {', '.join(other)}", "make setup")
    else:
        yield Check("packages", "ok", "as in constraints.txt")


def _required_names() -> set[str]:
    try:
        lines = metadata.requires("servescope") or []
    except metadata.PackageNotFoundError:
        return set()
    return {_canonical(re.split(r"[\s<>=!~;\[]", line)[0]) for line in lines if "extra ==" not in line}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _devices() -> Iterator[Check]:
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            cwd=SOURCE_ROOT,
            env=worker_environment(),
        )
        seen = json.loads(probe.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        yield Check("torch", "broken", "PyTorch cannot be imported", "make clean lab")
        return
    yield Check("torch", "ok", f"{seen['torch']}, {seen['threads']} threads")
    yield Check(
        "cpu", "ok", f"{os.cpu_count()} cores, bfloat16 {'in hardware' if seen['cpu_bf16'] else 'not in hardware'}"
    )
    for index, gpu in enumerate(seen["devices"]):
        detail = f"{gpu['name']}, {gpu['memory_bytes'] / GIB:.0f} GiB, compute capability {gpu['capability']}"
        yield Check(f"cuda:{index}", "ok", detail)
    if not seen["devices"]:
        yield _no_gpu(seen["cuda"])


def _no_gpu(cuda: str | None) -> Check:
    from app.devices import gpu_count

    if gpu_count() and cuda is None:
        mend = "make clean, then make lab with a package index that offers the CUDA build of torch"
        return Check("gpu", "broken", "the driver shows a GPU, but this PyTorch was built without CUDA", mend)
    if gpu_count():
        mend = "check CUDA_VISIBLE_DEVICES and that the driver is new enough for this PyTorch"
        return Check("gpu", "broken", f"the driver shows a GPU, but PyTorch (CUDA {cuda}) cannot use it", mend)
    return Check("gpu", "note", "none; runs use the CPU")


def _gpu_counters() -> Iterator[Check]:
    from telemetry import nvml

    try:
        missing = nvml.missing_counters(0)
    except nvml.NvmlUnavailable as error:
        yield Check("gpu counters", "note", f"none: {error}")
        return
    if missing:
        reasons = "; ".join(f"{counter}: {why}" for counter, why in sorted(missing.items()))
        yield Check("gpu counters", "note", f"stay empty: {reasons}", "a newer driver or device may have them")
    else:
        yield Check("gpu counters", "ok", "all there")


def _memory() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    low = memory.available < LEAST_MEMORY_BYTES
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    yield Check(
        "memory", "broken" if low else "ok", detail, "end other programs, or choose a smaller model" if low else ""
    )


def _folder(home: Home) -> Iterator[Check]:
    try:
        home.prepare()
        home.require_space()
    except LabError as error:
        yield Check("store", "broken", error.message, error.mend)
        return
    yield Check(
        "store",
        "ok",
        f"{home.root} ({ENV}), {home.free_bytes() / GIB:.1f} GiB free (a run: {LEAST_FREE_BYTES >> 20} MiB)",
    )


def _speed() -> Iterator[Check]:
    """What scenarios are sized by here, as far as it has been measured."""
    from app.runs.machine_rates import kept_rates
    from engine.config import MachineRates

    kept = kept_rates()
    if not kept:
        yield Check("speed", "ok", "measured when a scenario first asks for it")
    for about in kept:
        facts, rates = about["facts"], MachineRates.model_validate(about["rates"])
        day = time.strftime("%Y-%m-%d", time.localtime(about["measured_unix_ns"] / 1e9))
        served = (
            f"{facts.get('model')} on {facts.get('device')} ({facts.get('dtype')}, "
            f"{facts.get('threads') or 'usual'} threads)"
        )
        mend = f"to have it measured again: rm {about['path']}" if rates.disturbed else ""
        yield Check("speed", "note" if rates.disturbed else "ok", f"{served}, {day}: {rates.in_words}", mend)


def _model() -> Iterator[Check]:
    from engine.config import EngineError
    from engine.config.models import EMBEDDED_MODEL, embedded_dir, embedded_gguf, is_converted

    try:
        embedded_gguf()
    except EngineError as error:
        yield Check("model", "broken", error.message, "make setup")
        return
    directory = embedded_dir()
    if not directory.is_dir():
        yield Check("model", "note", f"{EMBEDDED_MODEL} is converted at the first start", "servescope lab")
    elif is_converted(directory, full=True):
        yield Check("model", "ok", f"{EMBEDDED_MODEL}, every hash right, in {directory}")
    else:
        yield Check("model", "note", f"the converted files in {directory} are damaged; the next start makes them anew")


def _browser() -> Iterator[Check]:
    from app.chromium import HOW_TO_GET_ONE, find_chromium

    chromium = find_chromium()
    if chromium is None:
        yield Check("browser", "note", "none: no browser tests, no pictures from the command line", HOW_TO_GET_ONE)
    else:
        yield Check("browser", "ok", str(chromium))


def _lab(home: Home) -> Iterator[Check]:
    from app.server.serve import HOST, PORT

    lab = running_lab(home)
    if lab is not None:
        yield Check("lab", "ok", f"up at {lab.url}")
        return
    with socket.socket() as probe:
        taken = probe.connect_ex((HOST, PORT)) == 0
    port = f"port {PORT} is taken by another program, so the next free one is used" if taken else f"port {PORT} is free"
    yield Check("lab", "ok", f"not running; {port}", "servescope lab")


def _database(home: Home) -> Iterator[Check]:
    from store.database import Database
    from store.errors import StoreError

    if running_lab(home) is not None:
        yield Check("database", "ok", "open in the lab that is up")
        return
    if not Path(home.database).exists():
        yield Check("database", "ok", "not made yet")
        return
    try:
        with database_lock(home, timeout_s=0.0), Database(home.database):
            yield Check("database", "ok", f"readable, {home.database.stat().st_size / 2**20:.1f} MiB")
    except (StoreError, LabError) as error:
        yield Check("database", "broken", error.message, error.mend)
