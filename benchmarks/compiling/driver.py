"""A stand-in for the GPU's driver: every launch compiles its kernel, down to machine code, and runs nothing.

The engine's Python code launches as on a GPU, with tensors in ordinary memory; Triton specialises on the same arguments as there. Needs
a process in which Triton does not interpret (``TRITON_INTERPRET=0`` before it is first imported).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from engine.gpu.attention import backend

WARP = 32


class NoDevice:
    """What Triton asks a driver before it compiles; devices are numbered by their capability, so that each has its own kernels."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_device(self) -> int:
        return self._capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, WARP)


@dataclass(frozen=True)
class Compiled:
    """One launch and what it was compiled to."""

    kernel: str
    grid: tuple[int, ...]
    constants: dict[str, Any]  # what the kernel is compiled for, warps and stages included
    types: tuple[str, ...]  # of the other arguments
    result: Any  # triton.compiler.CompiledKernel

    @property
    def key(self) -> str:
        return self.result.hash


@contextmanager
def compiling(
    capability: int, processors: int, launched: Callable[..., None] | None = None
) -> Iterator[list[Compiled]]:
    """Inside, launches compile for this compute capability (90: Hopper) and are listed; ``processors``: of the device that is not there.

    ``launched``: is told of every launch: the kernel, what it was compiled to, the grid and the arguments, by place and by name.
    """
    assert not backend.interpreted(), "Triton interprets here: set TRITON_INTERPRET=0 before it is imported"
    launches: list[Compiled] = []
    run = JITFunction.run

    def compile_only(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        result = run(kernel, *arguments, grid=grid, warmup=True, **named)
        fixed = {param.name for param in kernel.params if param.is_constexpr}
        constants = {name: value for name, value in named.items() if name in fixed or name.startswith("num_")}
        types = tuple(
            f"{name}:{str(value.dtype).removeprefix('torch.')}"
            for name, value in zip(kernel.arg_names, arguments, strict=False)
            if isinstance(value, torch.Tensor)
        )
        launches.append(Compiled(kernel.fn.__name__, tuple(grid), constants, types, result))
        if launched is not None:
            launched(kernel, result, grid, arguments, named)
        return result

    before = driver._active, backend.INTERPRETED_PROCESSORS
    driver.set_active(NoDevice(capability))
    backend.INTERPRETED_PROCESSORS = processors
    JITFunction.run = compile_only
    try:
        yield launches
    finally:
        JITFunction.run = run
        driver._active, backend.INTERPRETED_PROCESSORS = before


def version() -> str:
    """Of Triton, whose bundled assembler is used."""
    return triton.__version__
