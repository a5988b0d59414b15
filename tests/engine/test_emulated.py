"""What the compiler makes of the kernels for a Hopper GPU gives the reference's numbers, run on a CPU instruction by instruction.

Triton 3.6 read packed rows of odd widths at wrong alignments, and gave wrong sums where a matrix of packed numbers has 16 rows: right in the
interpreter, wrong on an H100, and wrong in the same digits here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compiling.emulate import Block, Memory, Program, parse
from benchmarks.compiling.emulated_ops import Fault, Unsupported

ROOT = Path(__file__).resolve().parents[2]
HEAD = """.version 8.7
.visible .entry k(
	.param .u64 .ptr .global .align 1 k_param_0,
	.param .u32 k_param_1
)
.reqntid 32
{
	.reg .b32 %r<9>;
"""


@pytest.mark.parametrize("how", ["usual", pytest.param("--all", marks=pytest.mark.rare)])
def test_compiled_kernels_read_what_the_reference_reads(how: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.emulated", how],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("\n") >= 2


def run(body: str, values: np.ndarray, scalar: int = 0) -> None:
    """32 threads over one argument's memory."""
    program: Program = parse(HEAD + body + "\tret;\n}\n")
    memory = Memory()
    memory.segments.append((values.ctypes.data, values.view(np.uint8)))
    params = {"k_param_0": (values.ctypes.data, "u64"), "k_param_1": (scalar, "u32")}
    Block(program, memory, params, (0, 0, 0), 64).run()


PLACE = """	ld.param.b64 %rd1, [k_param_0];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd2, %r1, 4;
	add.s64 %rd3, %rd1, %rd2;
"""


def test_threads_part_and_meet_again():
    values = np.arange(32, dtype=np.int32)
    run(
        PLACE
        + """	ld.global.b32 %r2, [%rd3];
	setp.lt.s32 %p1, %r2, 5;
	@%p1 bra $L1;
	add.s32 %r2, %r2, 100;
$L1:
	shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;
	st.global.b32 [%rd3], %r3;
""",
        values,
    )
    kept = np.where(np.arange(32) < 5, np.arange(32), np.arange(32) + 100)
    assert (values == kept[np.arange(32) ^ 1]).all()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("	ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd3];\n", "misaligned address"),
        ("	ld.global.b32 %r4, [%rd3+4];\n", "outside all arguments"),
    ],
)
def test_an_access_that_a_gpu_would_refuse_is_refused(body: str, said: str):
    with pytest.raises(Fault, match=said):
        run(PLACE + body, np.zeros(32, np.int32))


def test_an_instruction_that_is_not_known_is_named():
    with pytest.raises(Unsupported, match=r"wgmma\.fence"):
        run("	wgmma.fence.sync.aligned;\n", np.zeros(32, np.int32))
