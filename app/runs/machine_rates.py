"""How fast this machine serves a model: measured once, in a process of its own, and kept in the user's cache directory.

Scenarios are sized by it (``scenarios.sizing``). What is kept is found again by everything that matters to it: model,
device, number format, threads, processor, versions. While it is measured, the device is held, so that no run is
disturbed and none disturbs.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, JsonValue

from app.devices import device_key
from app.home import Home
from app.rights import Right, require
from app.runs.process import SOURCE_ROOT, worker_environment
from engine.config import EngineConfig, MachineRates
from engine.config.models import models_dir
from telemetry.json_file import Nanoseconds, Unreadable, read_as, write_json

LAYOUT = 2  # raised when what is measured or kept changes
DISTURBED_KEEP_S = 3600.0  # rates of a busy machine are measured again after this
WAIT_S = 60.0  # for a run that holds the device
TIMEOUT_S = 900.0  # a large model takes its time to load
MATTERS = (
    "model",
    "dtype",
    "threads",
    "attention_backend",
    "cuda_graphs",
    "graphs_of_longer_steps",
    "overlap",
    "block_size",
)

Say = Callable[[str], None]


def measure_for(
    home: Home, say: Say = lambda text: None, wait_s: float = WAIT_S
) -> Callable[[EngineConfig], MachineRates | None]:
    """What ``scenarios.build`` asks for rates; ``say`` is told when something takes a while, and why there are none."""
    return lambda config: machine_rates(home, config, say, wait_s)


def machine_rates(
    home: Home, config: EngineConfig, say: Say = lambda text: None, wait_s: float = WAIT_S
) -> MachineRates | None:
    """The rates of this machine for these settings, measured now where nobody has; None where they cannot be had.

    A model that cannot be loaded is no error here: the run will say so itself.
    """
    config, facts, place = _found_by(config)
    if (kept := _kept(place)) is not None:
        return kept
    device = FileLock(home.locks / f"{device_key(config.device)}.lock", thread_local=False)
    require(Right.START)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_suffix(".lock"), timeout=TIMEOUT_S), device.acquire(timeout=wait_s):
            if (kept := _kept(place)) is not None:  # another process has just measured
                return kept
            say(f"Measuring how fast this machine serves {config.model}, once.")
            rates = _measure(config)
            write_json(place, {"facts": facts, "measured_unix_ns": time.time_ns(), "rates": rates.model_dump()})
            return rates
    except Timeout:
        say("This machine was not measured: another run has the device. Times are those of the scenario's file.")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        say(f"This machine was not measured ({error}). Times are those of the scenario's file.")
    return None


def known_rates(config: EngineConfig) -> MachineRates | None:
    """The rates of this machine for these settings where they were measured before; nothing is measured now."""
    return _kept(_found_by(config)[2])


def _found_by(config: EngineConfig) -> tuple[EngineConfig, dict[str, Any], Path]:
    """The settings with the model's whole path, what their rates depend on, and the file these are kept in."""
    model = Path(config.model).expanduser()
    if model.exists():  # the measuring process works in another folder
        config = config.model_copy(update={"model": str(model.resolve())})
    facts = _facts(config)
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return config, facts, rates_dir() / f"{name}.json"


def rates_dir() -> Path:
    """Where measured rates are kept; removing a file has it measured again."""
    return models_dir().parent / "rates"


class KeptRates(BaseModel):
    """A file of measured rates: what they depend on, when they were measured, the rates."""

    facts: dict[str, JsonValue]
    measured_unix_ns: Nanoseconds
    rates: MachineRates


def kept_rates() -> list[dict[str, Any]]:
    """Everything that is kept, newest first: ``facts``, ``rates``, ``measured_unix_ns`` and ``path`` of each."""
    files = [(path, _read(path)) for path in rates_dir().glob("*.json") if _kept(path) is not None]
    readable = [about.model_dump() | {"path": str(path)} for path, about in files if about is not None]
    return sorted(readable, key=lambda about: -about["measured_unix_ns"])


def _read(place: Path) -> KeptRates | None:
    try:
        return read_as(KeptRates, place)
    except (FileNotFoundError, Unreadable):
        return None


def _kept(place: Path) -> MachineRates | None:
    about = _read(place)
    if about is None:
        return None
    age_s = time.time() - about.measured_unix_ns / 1e9
    return None if about.rates.disturbed and age_s > DISTURBED_KEEP_S else about.rates


def _facts(config: EngineConfig) -> dict[str, Any]:
    """All that a measurement depends on, as far as it can be told without torch."""
    from telemetry import nvml
    from telemetry.machine import cpu_model, package_version, usable_cores

    device = device_key(config.device)
    gpu = None
    if device != "cpu":
        try:
            gpu = nvml.describe(int(device.rpartition("-")[2] or 0)).get("name")
        except (nvml.NvmlUnavailable, ValueError):
            gpu = "unknown"
    model = Path(config.model)
    return {
        "layout": LAYOUT,
        "device": device,
        "gpu": gpu,
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "versions": {name: package_version(name) for name in ("torch", "triton")},
        "model_modified_ns": model.stat().st_mtime_ns if model.exists() else None,
    } | {key: getattr(config, key) for key in MATTERS}


def _measure(config: EngineConfig) -> MachineRates:
    """Measure in a process of its own. Raises ``RuntimeError`` with the reason where that fails."""
    began, busy, own = time.monotonic(), _busy_s(), _children_s()
    done = subprocess.run(
        [sys.executable, "-m", "engine.timing"],
        input=config.model_dump_json(),
        capture_output=True,
        text=True,
        cwd=SOURCE_ROOT,
        env=worker_environment(),
        timeout=TIMEOUT_S,
        check=False,
    )
    last = next(reversed(done.stdout.strip().splitlines()), "{}")
    try:
        message = json.loads(last)
        if "rates" in message:
            others_s = _busy_s() - busy - (_children_s() - own)
            whole_s = max(1e-3, time.monotonic() - began) * (psutil.cpu_count() or 1)
            share = min(1.0, max(0.0, others_s / whole_s))
            return MachineRates.model_validate(message["rates"] | {"others_share": share})
    except ValueError:
        message = {}
    reason = (message.get("error") or {}).get("message") or "the measuring process ended"
    raise RuntimeError(str(reason).rstrip("."))


def _busy_s() -> float:
    """Seconds that all cores together have worked since the machine started."""
    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0)


def _children_s() -> float:
    """Seconds of processor time that this process's ended children took."""
    times = psutil.Process().cpu_times()
    return times.children_user + times.children_system


def size_starter(home: Home, say: Say = lambda text: None) -> None:
    """Measure what the first run of a new lab is sized by, while nothing else runs yet."""
    if not (home.run_ids() or home.trashed_ids()):
        machine_rates(home, EngineConfig(), say)
