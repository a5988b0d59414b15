"""Where the model runs and in which number format."""

from __future__ import annotations

import psutil
import torch

from engine.config.errors import EngineError
from telemetry.machine import cpu_multiplies_bfloat16, usable_cores

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def usual_threads() -> int:
    """Threads for a run that does not say: the cores this process may use, but one.

    Every operation waits for its last thread, so an engine that holds all cores stands still whenever a browser draws,
    the lab answers or a row is written: on two cores with the page open, two threads served the starter scenario more
    slowly than one.
    """
    return max(1, min(psutil.cpu_count(logical=False) or 1, usable_cores()) - 1)


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> the device; a GPU becomes the one this process launches on and marks
    time on.

    Raises:
        EngineError: a GPU is asked for and there is none, or none of that number.
    """
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return _current(0) if count else torch.device("cpu")
    if count == 0:
        reason = "" if torch.version.cuda else " This build of PyTorch has no CUDA support."
        raise EngineError(
            "no-gpu",
            "device",
            name,
            f"There is no GPU that PyTorch can use here.{reason}",
            "Set device to cpu or auto.",
        )
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        choices = ", ".join(f"cuda:{i}" for i in range(count))
        raise EngineError("no-gpu", "device", name, f"GPU {index} does not exist.", f"Set device to one of: {choices}.")
    return _current(index)


def _current(index: int) -> torch.device:
    """Kernels, events and graphs go to the current GPU, whichever their tensors are on."""
    torch.cuda.set_device(index)
    return torch.device(f"cuda:{index}")


def device_uuid(device: torch.device) -> str | None:
    """What names a GPU for certain, whatever order it is counted in; None on a CPU or where PyTorch does not tell."""
    if device.type != "cuda":
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else str(uuid)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` takes bfloat16 on GPUs that have it and on CPUs that multiply it in hardware, else float32."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32
