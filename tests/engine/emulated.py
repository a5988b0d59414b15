"""Packed attention as compiled for a GPU, held against the reference on a CPU: ``python -m tests.engine.emulated [--all]``.

In a process of its own, as Triton must not interpret in it. Prints a line for each case; exit code 1 where one is wrong.
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "0"  # read when Triton is first imported

import torch

from benchmarks.compiling.emulate import emulating
from engine.config.techniques import KVQuantization
from tests.engine import test_triton_packed, test_triton_windows

BATCH = [(1, 33), (1, 2)]
PACKED = [  # codec, heads, dtype
    ("int4", (2, 2, 64), torch.float32),
    ("int8", (6, 2, 64), torch.bfloat16),
    ("int4", (2, 1, 256), torch.bfloat16),
    ("int4", (4, 1, 128), torch.bfloat16),
    ("fp8", (2, 1, 256), torch.bfloat16),
    ("int8", (4, 1, 80), torch.float32),
]
WINDOWS = [  # codec, heads
    ("4 and 2 bits, small groups", (2, 1, 256)),
    ("2 bits", (2, 2, 64)),
    ("both per channel", (2, 2, 64)),
    ("8 and 4 bits, float32 steps", (2, 2, 64)),
    ("nothing exact", (2, 2, 64)),
]
USUAL = 1  # of either that are not left to --all


def main(every: bool) -> int:
    wrong = 0
    with emulating(90, 1):
        for name, heads, dtype in PACKED if every else PACKED[:USUAL]:
            torch.manual_seed(3)
            apart = test_triton_packed.packed_distance(name, heads, BATCH, dtype)
            wrong += tell(f"{name}, {heads}, {dtype}", apart, 1e-4 if dtype == torch.float32 else 1.5e-2)
        for name, heads in WINDOWS if every else WINDOWS[:USUAL]:
            torch.manual_seed(sum(heads))
            sides = test_triton_windows.Sides(KVQuantization(**test_triton_windows.CODECS[name]), heads)
            wrong += tell(f"{name}, {heads}", sides.step([(20, True), None, None]), 1e-4)
    return int(wrong > 0)


def tell(case: str, apart: float, most: float) -> bool:
    print(f"{case}: {apart:.2g}", "" if apart < most else "WRONG", flush=True)
    return apart >= most


if __name__ == "__main__":
    sys.exit(main("--all" in sys.argv))
