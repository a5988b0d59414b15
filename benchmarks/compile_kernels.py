"""Compile every kernel for a GPU that need not be there: registers, spills, shared memory, and how full a multiprocessor can be.

``python -m benchmarks.compile_kernels [--capability 90] [--set sample|models|usual|all] [--every N] [--jobs N] [--json FILE] [--check]``

The engine launches as on the device, and each launch is compiled down to machine code instead of run. On a machine with that device this
also fills Triton's cache, so that nothing that was compiled here is compiled again there. ``--check`` fails where a kernel asks for more
shared memory than a block can have.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # read when Triton is first imported

from benchmarks.compiling.cases import SETS
from benchmarks.compiling.driver import compiling, version
from benchmarks.compiling.resources import DEVICES, Resources, resources
from benchmarks.harness import Report, arguments

SHOWN = (
    "BLOCK_M",
    "BLOCK_N",
    "HEAD_DIM",
    "GROUP",
    "BLOCK_SIZE",
    "SINGLES",
    "SPLIT",
    "KEY_FORM",
    "KEY_BITS",
    "VALUE_BITS",
    "num_stages",
)
HOT = ("paged_attention", "shared_prefixes")


@dataclass(frozen=True)
class Row:
    """One compiled kernel."""

    kernel: str
    case: str  # the first that launched it
    variant: str
    types: str
    grid: tuple[int, ...]  # of its first launch
    resources: Resources

    @classmethod
    def of(cls, case: str, launch: Any) -> Row:
        variant = " ".join(f"{name}={launch.constants[name]}" for name in SHOWN if name in launch.constants)
        return cls(launch.kernel, case, variant, " ".join(launch.types), launch.grid, resources(launch.result))


def compile_case(capability: int, set_name: str, number: int) -> dict[str, Row | str]:
    """Rows of one case by the hash of what was compiled; a string is why it could not be."""
    case = SETS[set_name]()[number]
    rows: dict[str, Row | str] = {}
    with compiling(capability, DEVICES[capability].processors) as launches:
        try:
            case.launch()
        except Exception as error:  # whatever the compiler says, the other cases go on
            rows[f"{case.title}: failed"] = f"{case.title}: {type(error).__name__}: {error}"[:2000]
    for launch in launches:
        if launch.key not in rows:
            rows[launch.key] = Row.of(case.title, launch)
    return rows


def compile_all(capability: int, set_name: str, jobs: int, every: int = 1) -> tuple[list[Row], list[str]]:
    """Every kernel once, and what could not be compiled; ``every``: only each so many-th shape, and one with exact windows in any case."""
    count = len(SETS[set_name]())
    numbers = list(range(0, count, every))
    windowed = [number for number, case in enumerate(SETS[set_name]()) if case.windowed]
    numbers += [] if set(windowed) & set(numbers) else windowed[:1]
    work = [(capability, set_name, number) for number in numbers]
    if jobs == 1:
        parts = [compile_case(*item) for item in work]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(compile_case, *zip(*work, strict=True)))
    merged: dict[str, Row | str] = {}
    for part in parts:
        merged = part | merged
    rows = [row for row in merged.values() if isinstance(row, Row)]
    rows.sort(key=lambda row: (row.kernel, row.variant))
    return rows, [row for row in merged.values() if isinstance(row, str)]


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument(
        "--capability", type=int, default=90, choices=DEVICES, help="compute capability without its dot"
    )
    parser.add_argument("--set", default="usual", choices=SETS, help="which shapes")
    parser.add_argument(
        "--every", type=int, default=1, help="only each so many-th shape of the set, and one with exact windows"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args(words)
    device = DEVICES[options.capability]
    rows, failures = compile_all(options.capability, options.set, options.jobs, options.every)
    report = Report("compile_kernels")
    report.details["triton"], report.details["capability"] = version(), options.capability
    report.details["kernels"] = [asdict(row) for row in rows]
    report.table(
        f"compute capability {options.capability / 10}, Triton {version()}",
        ["kernel", "variant", "warps", "registers", "spilled, bytes", "shared, bytes", "occupancy"],
        [
            (
                row.kernel,
                row.variant,
                row.resources.warps,
                row.resources.registers,
                row.resources.stack,
                row.resources.shared,
                row.resources.occupancy(device),
            )
            for row in rows
        ],
    )
    report.figure("kernels that did not compile", len(failures), "shapes", goal=0, better="lower")
    most = max((row.resources.shared for row in rows), default=0)
    report.figure("most shared memory of a block", most, "bytes", goal=device.shared_per_block, better="lower")
    spilled = max((row.resources.stack for row in rows if row.kernel in HOT), default=0)
    report.figure("most spilled by an attention kernel", spilled, "bytes a thread", better="lower")
    for failure in failures:
        print(failure, file=sys.stderr)
    return report.finish(options) or (1 if failures else 0)


if __name__ == "__main__":
    sys.exit(main())
