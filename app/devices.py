"""Which device a run will use, told without importing torch."""

from __future__ import annotations

import functools
import os


@functools.cache
def gpu_count() -> int:
    """GPUs the driver shows to this process; 0 without a driver or with ``CUDA_VISIBLE_DEVICES`` empty."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return 0
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            count = int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
    return min(count, len(visible.split(","))) if visible is not None else count


def device_key(device: str) -> str:
    """``cpu`` or ``cuda-N`` for a device setting (``auto``, ``cpu``, ``cuda``, ``cuda:N``); also a safe file name."""
    if device == "auto":
        device = "cuda" if gpu_count() else "cpu"
    return "cuda-0" if device == "cuda" else device.replace(":", "-")
