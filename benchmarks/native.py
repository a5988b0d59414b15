"""Native kernels against PyTorch's own operations on this CPU: the same steps of the same model, in turns in one process.

``steps`` times forward passes, one of each backend after the other, so that other work on the machine meets both alike; ratios are
taken within a pair. ``runs`` serves the ragged workload of ``benchmarks.cpu_peers`` whole, with everything recorded, in turns.
``busy`` does so beside a process that computes all the time.

``python -m benchmarks.native [--parts steps,runs,busy] [--dtypes float32,bfloat16] [--repeats N] [--json FILE] [--check]``
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import psutil
import torch

from benchmarks.harness import Report, arguments, some_of, summarise
from benchmarks.peers.ours import serve, with_requests
from benchmarks.peers.work import digest, ragged_spec
from engine.block_table import blocks_for
from engine.config import RequestSpec, Sampling
from engine.executor import Executor
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.build import allocate
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.sizing import Room
from engine.start.warmup import warm_up

BACKENDS = ("gathered", "native")
LEAST_RATIO = {"float32": 1.05, "bfloat16": 1.15}  # of whole runs' tokens/s, native over gathered
LEAST_SHARE_WHEN_BUSY = 0.45  # of the quiet throughput, beside one process that computes
CONTEXTS = [random.Random(n).randint(32, 384) for n in range(16)]
CASES: Mapping[str, Sequence[tuple[int, int]]] = {  # new tokens and tokens before them, of each sequence
    "1 request at 256": [(1, 256)],
    "16 requests at 32 to 384": [(1, context) for context in CONTEXTS],
    "8 requests at 4096": [(1, 4096)] * 8,
    "16 verifications of 5": [(5, context) for context in CONTEXTS],
    "15 requests and a chunk of 64": [(64, 128), *((1, context) for context in CONTEXTS[1:])],
    "a prompt of 512": [(512, 0)],
}


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--parts", type=some_of(PARTS), default=list(PARTS), help="with commas")
    parser.add_argument("--dtypes", type=some_of(LEAST_RATIO), default=["float32"], help="number formats, with commas")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument(
        "--repeats", type=int, default=5, help="whole runs of each backend; steps are tried 8 x as often"
    )
    parser.add_argument("--requests", type=int, default=16, help="of a whole run")
    options = parser.parse_args(words)
    report = Report("native")
    for dtype in options.dtypes:
        sides = {backend: prepared(backend, dtype, options) for backend in BACKENDS}
        for part in options.parts:
            report.note_load()
            PARTS[part](report, dtype, sides, options)
    return report.finish(options)


def prepared(backend: str, dtype: str, options: argparse.Namespace) -> Prepared:
    """The embedded model and the workload, ready to be served by one backend."""
    spec = ragged_spec(dtype, options.threads, options.requests)
    engine = spec.engine.model_copy(update={"attention_backend": backend})
    ready = prepare(spec.model_copy(update={"engine": engine}))
    began = time.perf_counter()
    warm_up(ready)
    print(f"{backend} {dtype}: warmed up in {time.perf_counter() - began:.2f} s", file=sys.stderr)
    return ready


@torch.inference_mode()
def steps(report: Report, dtype: str, sides: Mapping[str, Prepared], options: argparse.Namespace) -> None:
    """Milliseconds of forward passes."""
    size = next(iter(sides.values())).spec.engine.block_size
    most = max(sum(blocks_for(tokens + context, size) for tokens, context in case) for case in CASES.values())
    executors = {}
    for backend, side in sides.items():
        pool = replace(side.pool, taken=Room(most, None))
        executors[backend] = allocate(replace(side, pool=pool))
        executors[backend].cache.data.normal_(generator=torch.Generator().manual_seed(0))
    rows = []
    for name, case in CASES.items():
        passes = {backend: forward_pass(executor, case, size) for backend, executor in executors.items()}
        tries = max(3, options.repeats * 8 // (4 if "512" in name else 1))
        times = in_turns(passes, tries)
        ratios = [slow / fast for slow, fast in zip(times["gathered"], times["native"], strict=True)]
        middle = statistics.quantiles(ratios, n=4)
        figures = {backend: statistics.median(times[backend]) * 1e3 for backend in BACKENDS}
        rows.append([name, figures["gathered"], figures["native"], middle[1], middle[0], middle[2]])
        report.figure(f"{dtype} {name}: gathered / native", middle[1], "x", spread=(middle[0], middle[2]))
    columns = ["forward pass", "gathered, ms", "native, ms", "ratio", "lower quartile", "upper quartile"]
    report.table(f"{dtype}, {options.threads} threads: medians", columns, rows)


def forward_pass(executor: Executor, case: Sequence[tuple[int, int]], block_size: int) -> Callable[[], object]:
    """A forward pass over sequences of so many new tokens behind so many that are in the cache."""
    slices, taken = [], 0
    for index, (tokens, context) in enumerate(case):
        known = [10 + n % 1000 for n in range(tokens + context)]
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), known, Sampling(), 1)
        blocks = blocks_for(tokens + context, block_size)
        request.block_table = list(range(taken, taken + blocks))
        taken += blocks
        slices.append(Slice(request, tokens, context, tokens > 1))
    batch = executor.build(Plan(slices))
    return lambda: executor.forward(batch)


def in_turns(passes: Mapping[str, Callable[[], object]], tries: int, warm: int = 2) -> dict[str, list[float]]:
    """Seconds of each pass, one after the other, ``tries`` times."""
    times: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(tries + warm):
        for name in list(passes) if turn % 2 else reversed(list(passes)):
            began = time.perf_counter()
            passes[name]()
            if turn >= warm:
                times[name].append(time.perf_counter() - began)
    return times


def runs(report: Report, dtype: str, sides: Mapping[str, Prepared], options: argparse.Namespace) -> None:
    """Output tokens/s of whole runs."""
    speeds, outputs = serve_in_turns(sides, options.repeats)
    for backend in BACKENDS:
        speed = summarise(speeds[backend])
        report.figure(f"{dtype} {backend}", speed.median, "tokens/s", spread=speed.spread)
    ratio = summarise([new / old for old, new in zip(speeds["gathered"], speeds["native"], strict=True)])
    same = sum(a == b for a, b in zip(outputs["gathered"], outputs["native"], strict=True))
    note = f"{same} of {len(outputs['native'])} outputs equal token by token"
    goal = LEAST_RATIO[dtype]
    report.figure(f"{dtype} native / gathered", ratio.median, "x", goal=goal, spread=ratio.spread, note=note)


def busy(report: Report, dtype: str, sides: Mapping[str, Prepared], options: argparse.Namespace) -> None:
    """Output tokens/s of whole runs beside one process that computes, as a share of those without, in turns."""
    shares: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for _ in range(max(2, options.repeats // 2)):
        quiet, _ = serve_in_turns(sides, 1)
        with neighbour():
            disturbed, _ = serve_in_turns(sides, 1)
        for backend in BACKENDS:
            shares[backend].append(disturbed[backend][0] / quiet[backend][0])
    for backend in BACKENDS:
        share = summarise(shares[backend])
        goal = LEAST_SHARE_WHEN_BUSY if backend == "native" else None
        report.figure(
            f"{dtype} {backend} beside a busy process / quiet", share.median, "", goal=goal, spread=share.spread
        )


def serve_in_turns(sides: Mapping[str, Prepared], repeats: int) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Tokens/s of each backend, run by run, and its outputs."""
    speeds: dict[str, list[float]] = {backend: [] for backend in sides}
    outputs: dict[str, list[str]] = {}
    for turn in range(repeats):
        for backend in list(sides) if turn % 2 else reversed(list(sides)):
            ready = with_requests(sides[backend], sides[backend].spec)
            duration = serve(ready)
            tokens = [r.output_token_ids for r in sorted(ready.requests, key=lambda r: r.index)]
            speeds[backend].append(sum(map(len, tokens)) / duration)
            outputs[backend] = digest(tokens)
    return speeds, outputs


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A process that computes in one thread for as long as the context lasts."""
    process = subprocess.Popen([sys.executable, "-c", "while True: sum(range(100_000))"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


PARTS = {"steps": steps, "runs": runs, "busy": busy}

if __name__ == "__main__":
    sys.exit(main())
