"""Whether a GPU has room for what is asked, said before anything is allocated: how much is missing, and what would
fit."""

from __future__ import annotations

import psutil
import torch

from engine.config.errors import EngineError
from engine.model.shape import RANDOM, ModelShape

RESERVE_BYTES = 512 << 20  # activations, kernels and libraries
_GIB = 2**30


def free_bytes(device: torch.device) -> int:
    """Memory that could be had on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def used_by_others(device: torch.device) -> str:
    """A sentence about memory that other processes hold on a GPU; empty where it is little."""
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    return f" Other processes and the driver hold {others / _GIB:.1f} GiB of it." if others > 2 * _GIB else ""


def check_weights_fit(shape: ModelShape, dtype: torch.dtype, device: torch.device) -> None:
    """Raises EngineError where a GPU cannot hold the model's weights."""
    if device.type != "cuda":
        return
    needed, free = shape.parameters * dtype.itemsize + RESERVE_BYTES, free_bytes(device)
    if needed <= free:
        return
    known = {name: other.parameters * dtype.itemsize + RESERVE_BYTES for name, other in RANDOM.items()}
    fitting = [name for name, size in sorted(known.items(), key=lambda item: item[1]) if size <= free]
    raise EngineError(
        "out-of-memory",
        "model",
        f"{shape.parameters / 1e9:.2f} billion parameters",
        f"Its weights need {needed / _GIB:.2f} GiB, {free / _GIB:.2f} GiB are free on {device}: "
        f"{(needed - free) / _GIB:.2f} GiB are missing.{used_by_others(device)}",
        f"The largest shape that fits is random:{fitting[-1]}." if fitting else "Free memory on the GPU.",
    )


def check_pool_fits(blocks: int, block_bytes: int, device: torch.device) -> None:
    """Raises EngineError where a GPU cannot hold a pool of this many blocks."""
    if device.type != "cuda":
        return
    needed, free = blocks * block_bytes + RESERVE_BYTES, free_bytes(device)
    if needed <= free:
        return
    most = max(0, free - RESERVE_BYTES) // block_bytes
    raise EngineError(
        "out-of-memory",
        "kv_blocks",
        blocks,
        f"The KV pool needs {needed / _GIB:.2f} GiB, {free / _GIB:.2f} GiB are free on {device}: "
        f"{(needed - free) / _GIB:.2f} GiB are missing.{used_by_others(device)}",
        f"Set kv_blocks to {most} or less." if most else "Free memory on the GPU.",
    )
