"""What this device can do at best, measured in a moment: the limits every iteration is held against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

CPU_MATRIX = 1536
GPU_MATRIX = 8192
CPU_COPY_BYTES = 128 << 20
GPU_COPY_BYTES = 2 << 30


def measure_peaks(device: torch.device, dtype: torch.dtype, *, budget_s: float = 0.15) -> dict[str, float]:
    """Matrix rate and copy bandwidth of the device.

    Returns ``flops_per_s`` (a large matrix product in ``dtype``), ``bytes_per_s`` (a large copy, bytes read plus bytes
    written), and ``seconds`` the measurement took. The best of several repetitions within ``budget_s`` seconds each.
    """
    began = time.perf_counter()
    gpu = device.type == "cuda"
    size = GPU_MATRIX if gpu else CPU_MATRIX
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty(size, size, device=device, dtype=dtype)
    flops = 2.0 * size**3 / shortest(lambda: torch.mm(a, b, out=product), device, budget_s)
    free = torch.cuda.mem_get_info(device)[0] if gpu else CPU_COPY_BYTES * 4
    count = min(GPU_COPY_BYTES if gpu else CPU_COPY_BYTES, free // 4)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2.0 * count / shortest(lambda: target.copy_(source), device, budget_s)
    return {"flops_per_s": flops, "bytes_per_s": copied, "seconds": time.perf_counter() - began}


def shortest(action: Callable[[], object], device: torch.device, budget_s: float, fewest: int = 1) -> float:
    """Shortest time of one repetition within the budget, of ``fewest`` or more, in seconds; the first one only warms
    up."""
    action()
    best, tries, end = float("inf"), 0, time.perf_counter() + budget_s
    while True:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        best, tries = min(best, now - start), tries + 1
        if now >= end and tries >= fewest:
            return best
