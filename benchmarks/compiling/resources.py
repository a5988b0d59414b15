"""What a compiled kernel takes of a multiprocessor, read from its machine code, and what devices have.

Limits: CUDA C++ Programming Guide, technical specifications per compute capability.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import triton

KIB = 1024
REGISTERS = 65_536  # of a multiprocessor, all capabilities here
REGISTER_UNIT = 256  # a warp is given a multiple of this many
SYSTEM_SHARED = KIB  # of each block, the driver's own


@dataclass(frozen=True)
class Device:
    """One multiprocessor of a compute capability."""

    shared_per_block: int  # bytes, the most a block may ask for
    shared: int  # bytes
    warps: int
    blocks: int
    processors: int  # of a common product, for the cut of the work


DEVICES = {
    80: Device(163 * KIB, 164 * KIB, 64, 32, 108),  # A100
    86: Device(99 * KIB, 100 * KIB, 48, 16, 84),  # A40, RTX 3090
    89: Device(99 * KIB, 100 * KIB, 48, 24, 142),  # L40, RTX 4090
    90: Device(227 * KIB, 228 * KIB, 64, 32, 132),  # H100, H200
    100: Device(227 * KIB, 228 * KIB, 64, 32, 148),  # B200
    120: Device(99 * KIB, 100 * KIB, 48, 24, 170),  # RTX 5090
}


@dataclass(frozen=True)
class Resources:
    """Of one kernel."""

    registers: int  # of a thread
    stack: int  # bytes of a thread in local memory: registers that were spilled
    shared: int  # bytes of a block
    warps: int  # of a block

    def blocks(self, device: Device) -> int:
        """Blocks that a multiprocessor holds at once."""
        per_warp = -(-self.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
        return min(
            device.blocks,
            device.warps // self.warps,
            REGISTERS // (per_warp * self.warps),
            device.shared // (self.shared + SYSTEM_SHARED),
        )

    def occupancy(self, device: Device) -> float:
        """Share of a multiprocessor's warps that can be there at once."""
        return self.blocks(device) * self.warps / device.warps


def resources(result: Any) -> Resources:
    """Of a ``triton.compiler.CompiledKernel``."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [_cuobjdump(), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", said)
    assert match, f"cuobjdump says nothing of registers: {said[-300:]}"
    registers, stack, local = map(int, match.groups())
    return Resources(registers, stack + local, result.metadata.shared, result.metadata.num_warps)


@cache
def _cuobjdump() -> Path:
    """The one that comes with Triton."""
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
