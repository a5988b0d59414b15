"""Every kernel compiles down to machine code for GPUs that are not here, as the engine launches it, and fits them.

In a process of its own: here Triton interprets. The shapes are a sample; ``python -m benchmarks.compile_kernels --set all`` takes them all.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compiling.resources import DEVICES, Device, Resources

ROOT = Path(__file__).resolve().parents[2]
#: (compute capability, every so many-th shape of the sample is compiled for it)
CAPABILITIES = [
    (90, 29),
    *(pytest.param(thorough, marks=pytest.mark.rare) for thorough in ((90, 3), (80, 14), (100, 14), (120, 14))),
]
HOT = ("paged_attention", "shared_prefixes")
#: Bytes a thread of an attention kernel keeps in local memory for want of registers, at most, on Hopper: with keys and values of 16 bits
#: as they are, with packed ones, in float32. The tiles were chosen for Hopper; elsewhere sums take more registers.
MOST_SPILLED = {"plain": 16, "packed": 16, "float32": 200}
MOST_SPILLED_ELSEWHERE = 288
GRID_LIMIT = 65_535  # programs along the second and third side of a grid


def launched_kernels() -> set[str]:
    """Names of all kernels that the engine's source launches: ``name[grid](...)``."""
    kernels = set()
    for path in (ROOT / "engine").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "triton" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Subscript)
                and isinstance(node.func.slice, ast.Tuple)
                and isinstance(node.func.value, ast.Name)
            ):
                kernels.add(node.func.value.id)
    return kernels


@pytest.fixture(scope="module", params=CAPABILITIES, ids=lambda asked: f"{asked[0] / 10} every {asked[1]}")
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Device, list[Any]]:
    """The device, and every kernel that the sample of shapes launches."""
    (capability, every), folder = request.param, tmp_path_factory.mktemp("compiled")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.compile_kernels", "--capability", str(capability)),
            *("--set", "sample", "--every", str(every), "--json", str(folder / "kernels.json")),
        ],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:] or done.stdout[-3000:]
    return DEVICES[capability], json.loads((folder / "kernels.json").read_text())["details"]["kernels"]


@pytest.mark.timeout(900)
def test_every_kernel_compiles_and_fits_the_device(compiled: tuple[Device, list[Any]]) -> None:
    device, kernels = compiled
    assert {kernel["kernel"] for kernel in kernels} == launched_kernels()
    for kernel in kernels:
        name, used = f"{kernel['kernel']} {kernel['variant']} {kernel['types']}", Resources(**kernel["resources"])
        assert used.shared <= device.shared_per_block, name
        assert used.blocks(device) >= 1, name
        assert max(kernel["grid"][1:], default=1) <= GRID_LIMIT, name
        if kernel["kernel"] in HOT:
            kind = "plain" if "KEY_FORM=0" in kernel["variant"] else "packed"
            kind = "float32" if "q:float32" in kernel["types"] else kind
            most = MOST_SPILLED[kind] if device is DEVICES[90] else MOST_SPILLED_ELSEWHERE
            assert used.stack <= most, f"{name} spills {used.stack} bytes"
