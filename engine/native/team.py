"""The threads that kernels run on: those that PyTorch's own operations use.

PyTorch's build of OpenMP keeps a team of threads and lets it wait for a moment between two operations. A second team
beside it would find the cores taken; so kernels are handed to the same one, by the function that compilers call for a
parallel region. A process that has not used more than one thread has no team yet and may be forked.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def _region() -> Any:
    """``GOMP_parallel(function, data, threads, flags)`` of the OpenMP that PyTorch uses; None where it has another
    interface."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            try:
                region = ctypes.CDLL(str(folder / name)).GOMP_parallel
            except (OSError, AttributeError):
                return None
            region.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            region.restype = None
            return region
    return None


def most_threads() -> int:
    """Threads that a kernel may run on: PyTorch's, or one where they cannot be reached."""
    return torch.get_num_threads() if _region() is not None else 1


def run(function: int, data: int, threads: int) -> None:
    """Call ``function(data)`` on every thread of the team at once."""
    _region()(function, data, threads, 0)
