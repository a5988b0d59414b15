"""Swapping preempted requests to host memory: copies, tails, and the length from which it beats computing again.

- *copies*: sessions with long contexts and priorities drawn anew, in a pool of 40 % of their demand (a tiny random model; what is
  counted does not depend on it). Copies per block that is moved, block by block over in groups, nothing kept and nothing ahead; then
  all of FastSwitch (groups, host copy kept, asynchronous) over block by block.
- *tbt*: the same with a model's real times: recompute, swap block by block in turn, and all of FastSwitch. Every variant serves the
  same requests and draws the same priorities; p99 of the time between tokens, and time spent waiting for copies.
- *crossover*: what a copy takes to begin and per byte is measured on this machine with copies of other sizes, and computing a prompt
  again at three lengths; both predict from which length swapping out and in is cheaper. Then both are measured between these lengths.
  On a CPU, where memory has no link, it is an emulated one (see ``--link-launch-us``), and the report says so; computing is timed there by processor time, as one thread does it.

``python -m benchmarks.preemption [--device cpu|cuda] [--repeats N] [--parts copies,tbt,crossover] [--json FILE] [--check]``
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Report, arguments, as_a_worker, interleave, paired_ratio, seconds, some_of, summarise
from engine.block_table import blocks_for
from engine.config import EngineConfig, Preemption, RequestSpec, RunSpec, Sampling
from engine.executor import Executor
from engine.kv.copying import Copier, Link, pieces, runs
from engine.kv.host import HostPool
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.build import allocate, build_engine
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.requests import make_requests
from store.link_fit import LinkFit, fit_link
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.spool import SpoolReader, spool_path

PARTS = ("copies", "tbt", "crossover")
BLOCK = 16
FEWER, SLOWER, OFF = 8.0, 1.0, 0.25  # goals: copies, p99 TBT over recompute's, error of the predicted length
PRIORITIES = {"priorities": "random", "priority_levels": 4}
VARIANTS = {
    "recompute": {"mode": "recompute"},
    "block, in turn": {"copies": "block", "asynchronous": False, "keep_copy": False},
    "group, in turn": {"copies": "group", "asynchronous": False, "keep_copy": False},
    "group, beside, kept": {"copies": "group", "asynchronous": True, "keep_copy": True},
}


@dataclass(frozen=True)
class Shape:
    """A workload of sessions that take turns in the pool."""

    sessions: int
    prompt: int  # tokens
    output: int
    every: int  # iterations from one draw of the priorities to the next


COPIES = Shape(16, 448, 96, 24)
TBT = {"cpu": Shape(6, 128, 24, 3), "cuda": Shape(24, 896, 128, 16)}
HOST_MIB = 8192.0  # more than any of these workloads fills
LONGEST = {"cpu": 512, "cuda": 4096}  # tokens that are computed again


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where it is measured")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each variant")
    parser.add_argument("--model", default="random:smollm2-135m", help="what is served where times count")
    parser.add_argument("--link-launch-us", type=float, default=600.0, help="of the link that is emulated on a CPU")
    parser.add_argument(
        "--parts", type=some_of(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}, with commas"
    )
    options = parser.parse_args(words)
    report = Report("preemption", device=options.device)
    report.note_load()
    if "copies" in options.parts:
        copies(report, options.device)
    if {"tbt", "crossover"} & set(options.parts):
        prepared = prepare(workload(options.model, options.device, TBT[options.device]))
        if "tbt" in options.parts:
            tbt(report, prepared, TBT[options.device], options.repeats)
        if "crossover" in options.parts:
            crossover(report, prepared, options.link_launch_us)
    report.note_load()
    return report.finish(options)


def workload(model: str, device: str, shape: Shape, pool: float = 0.4) -> RunSpec:
    """``shape.sessions`` requests at once, in a pool of that share of their demand."""
    rng = random.Random(0)
    demand = shape.sessions * blocks_for(shape.prompt + shape.output, BLOCK)
    asked = tuple(
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=tuple(rng.randrange(10, 250) for _ in range(rng.randint(shape.prompt // 2, shape.prompt))),
            max_tokens=shape.output,
        )
        for i in range(shape.sessions)
    )
    config = EngineConfig(
        model=model,
        device=device,
        threads=1 if device == "cpu" else None,
        cuda_graphs=False,  # what they spare is the same for all, and capturing them takes longer than serving
        block_size=BLOCK,
        kv_blocks=round(pool * demand),
        max_num_seqs=shape.sessions,
        sampling=Sampling(ignore_eos=True),
        keep_text=False,
    )
    return RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=asked)


@dataclass(frozen=True)
class Served:
    """What one run counted."""

    seconds: float
    processor_s: float
    tbt_p99_ms: float
    preemptions: int
    swaps: float  # out and in
    copies: float
    megabytes: float
    blocks: int  # moved, ahead included
    waited_s: float


def serve(prepared: Prepared, every: int, how: dict[str, object]) -> Served:
    """Serve the workload with the model at hand and one way to preempt."""
    asked = Preemption(priority_every=every, host_mib=HOST_MIB, **(PRIORITIES | how))
    spec = prepared.spec.model_copy(update={"engine": prepared.spec.engine.model_copy(update={"preemption": asked})})
    requests = make_requests(spec, prepared.model, prepared.device, prepared.max_model_len)
    prepared = replace(prepared, spec=spec, requests=requests)
    executor = allocate(prepared)
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        with Recorder(Path(folder), "full", clock := RunClock()) as recorder:
            engine = build_engine(prepared, recorder, clock, executor)
            began = clock.now_ns(), time.process_time()
            engine.run(requests)
            took, processor_s = (clock.now_ns() - began[0]) / 1e9, time.process_time() - began[1]
        slices, swaps = ([r for part in SpoolReader(spool_path(Path(folder), row)).read() for r in part.batch.to_pylist()]
                         for row in ("slice", "swap"))  # fmt: skip
    gaps = [row["itl_ns"] / 1e6 for row in slices if row["itl_ns"] is not None]
    said = engine.scheduler.preemption.describe()
    assert not said.get("swap_fallbacks"), "host memory was too small for this measurement"
    return Served(
        took,
        processor_s,
        float(np.quantile(gaps, 0.99)),
        engine.totals.preemptions,
        said.get("swaps_out", 0) + said.get("swaps_in", 0),
        said.get("swap_copies", 0),
        said.get("swap_bytes", 0) / 1e6,
        sum(row["blocks"] for row in swaps),
        said.get("swap_waited_s", 0),
    )


def copies(report: Report, device: str) -> None:
    prepared = prepare(workload("random:tiny", device, COPIES))
    served = {name: serve(prepared, COPIES.every, VARIANTS[name]) for name in list(VARIANTS)[1:]}
    rows = [
        [name, s.swaps, s.copies / s.swaps, s.copies / s.blocks, s.megabytes / s.swaps, 1e3 * s.megabytes / s.copies]
        for name, s in served.items()
    ]
    columns = ["", "swaps", "copies per swap", "copies per block", "MB per swap", "kB per copy"]
    report.table("Copies, a tiny random model", columns, rows)
    block, group, everything = served.values()
    fewer = (block.copies / block.swaps) / (group.copies / group.swaps)
    report.figure("copies per swap, block by block / in groups", fewer, "x", goal=FEWER)
    fewer = (block.copies / block.swaps) / (everything.copies / everything.swaps)
    report.figure("copies per swap, block by block / groups, kept, ahead", fewer, "x")
    fewer = (block.megabytes / block.swaps) / (everything.megabytes / everything.swaps)
    report.figure("bytes per swap, nothing kept / kept", fewer, "x")


def tbt(report: Report, prepared: Prepared, shape: Shape, repeats: int) -> None:
    names = ("recompute", "block, in turn", "group, beside, kept")

    def side(name: str) -> Callable[[], Served]:
        return lambda: serve(prepared, shape.every, VARIANTS[name])

    served = interleave({name: side(name) for name in names}, repeats)
    rows = []
    for name, all_of in served.items():
        columns = [
            [getattr(s, key) for s in all_of]
            for key in ("tbt_p99_ms", "seconds", "processor_s", "preemptions", "waited_s")
        ]
        rows.append([name, *(statistics.median(values) for values in columns)])
    title = (
        f"{shape.sessions} sessions, prompts up to {shape.prompt} tokens, {shape.output} answered; pool 40 % of demand"
    )
    report.table(title, ["", "p99 TBT, ms", "seconds", "processor, s", "preemptions", "waited, s"], rows)
    recompute = [s.tbt_p99_ms for s in served["recompute"]]
    for name in names[1:]:
        ratio = paired_ratio([s.tbt_p99_ms for s in served[name]], recompute)
        goal = SLOWER if name == names[-1] else None
        figure = f"p99 TBT, swap ({name}) / recompute"
        report.figure(figure, ratio.median, "x", goal=goal, better="lower", spread=ratio.spread)
    work = paired_ratio([s.processor_s for s in served[names[-1]]], [s.processor_s for s in served["recompute"]])
    report.figure(
        f"processor time, swap ({names[-1]}) / recompute", work.median, "x", better="lower", spread=work.spread
    )
    share = summarise([s.waited_s / s.seconds for s in served[names[-1]]])
    report.figure("time spent waiting for copies", 100 * share.median, "%", better="lower")


# ---------------------------------------------------------------------- swap or recompute


@torch.inference_mode()
def crossover(report: Report, prepared: Prepared, launch_us: float) -> None:
    longest = LONGEST[prepared.device.type]
    asked = (RequestSpec(request_id="0", prompt_token_ids=(9,) * longest, max_tokens=2),)
    config = prepared.spec.engine.model_copy(
        update={"kv_blocks": 2 * blocks_for(longest, BLOCK) + 16, "cuda_graphs": False}
    )
    spec = prepared.spec.model_copy(update={"engine": config, "requests": asked})
    prepared = prepare(spec)
    executor = allocate(prepared)
    known = [longest // 32, longest // 4, longest]
    again = {s: recompute_s(executor, prepared, s) for s in known}
    curve = np.polyfit(known, [again[s] for s in known], 2)
    swap, link = _link(executor, prepared, again, launch_us)
    where = "emulated link" if prepared.device.type == "cpu" else "link of this machine"
    report.figure("to begin a copy", 1e6 * link.launch_s, "us", better="lower", note=where)
    if math.isfinite(link.bytes_per_s):  # else larger copies took no longer, and no rate can be told
        report.figure("bytes beyond that", link.bytes_per_s / 1e9, "GB/s", note=where)
    grid = sorted(
        {round(longest * f / BLOCK) * BLOCK for f in (0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.36, 0.5, 0.7, 0.9)}
    )
    rows = []
    measured: dict[str, list[tuple[float, float]]] = {"group": [], "block": []}
    for tokens in grid:
        computed = recompute_s(executor, prepared, tokens)
        row = [tokens, 1e3 * computed, 1e3 * float(np.polyval(curve, tokens))]
        for copies in measured:
            count, nbytes = swap.size(tokens, copies)
            took = swap.seconds(tokens, copies)
            measured[copies].append((took, computed))
            row += [1e3 * took, 2e3 * link.seconds(count, nbytes)]
        rows.append(row)
    columns = [
        "tokens",
        "recompute, ms",
        "predicted",
        "swap in groups, ms",
        "predicted",
        "block by block, ms",
        "predicted",
    ]
    report.table(f"Out and in against computing again ({where})", columns, rows)
    lengths: list[list[str]] = []
    for copies, pairs in measured.items():
        found = crossing(grid, [a - b for a, b in pairs])
        fine = [float(s) for s in range(grid[0], grid[-1] + 1, 8)]
        said = crossing(
            fine, [2 * link.seconds(*swap.size(round(s), copies)) - float(np.polyval(curve, s)) for s in fine]
        )
        name = "in groups" if copies == "group" else "block by block"
        lengths.append([name, *(f"{x:,.0f}" if math.isfinite(x) else f"not up to {grid[-1]}" for x in (found, said))])
        if math.isfinite(found) and math.isfinite(said) and found > grid[0]:
            report.figure(f"swap beats recompute from ({name})", found, "tokens", better="lower", note=where)
            off = abs(said / found - 1)
            report.figure(f"predicted over measured length ({name}), off by", off, "", goal=OFF, better="lower")
    report.table("Tokens from which swapping out and in is cheaper", ["", "measured", "predicted"], lengths)


def crossing(lengths: Sequence[float], differences: Sequence[float]) -> float:
    """Where the first of what is negative from then on begins, between two lengths by a straight line; infinite where it
    never is."""
    last = max((i for i, d in enumerate(differences) if d > 0), default=-1)
    if last < 0:
        return float(lengths[0])
    if last + 1 == len(lengths):
        return math.inf
    share = differences[last] / (differences[last] - differences[last + 1])
    return lengths[last] + share * (lengths[last + 1] - lengths[last])


def recompute_s(executor: Executor, prepared: Prepared, tokens: int) -> float:
    """Seconds to compute so many tokens of one request in chunks of the token budget, the best of five; on a CPU, where one
    thread computes, its processor time, so that others' work on the machine counts for less."""
    request = Request(0, RequestSpec(request_id="0", prompt="-"), [9] * (tokens + 1), Sampling(), 1)
    request.block_table, budget = list(range(blocks_for(tokens + 1, BLOCK))), prepared.limits.token_budget

    def once() -> None:
        for first in range(0, tokens, budget):
            plan = Plan([Slice(request, min(budget, tokens - first), first, True)])
            executor.forward(executor.build(plan))
        if prepared.device.type == "cuda":
            torch.cuda.synchronize()

    clock, taken = time.thread_time if prepared.device.type == "cpu" else time.perf_counter, []
    once()
    for _ in range(5):
        began = clock()
        once()
        taken.append(clock() - began)
    return min(taken)


@dataclass(frozen=True)
class Swapping:
    """Blocks of the cache, and copies of them; out and in, one after the other."""

    copier: Copier
    pairs: list[tuple[torch.Tensor, torch.Tensor]]

    def cut(self, tokens: int, copies: str) -> list[tuple[int, int, int, int]]:
        table = list(range(blocks_for(tokens, BLOCK)))
        return pieces(self.pairs, runs(table, table, grouped=copies == "group"))

    def size(self, tokens: int, copies: str) -> tuple[int, int]:
        """Copies and bytes of one direction."""
        cut = self.cut(tokens, copies)
        return len(cut), sum(piece[3] for piece in cut)

    def seconds(self, tokens: int, copies: str) -> float:
        cut = self.cut(tokens, copies)

        def once() -> None:
            self.copier.start(cut, to_host=True)
            self.copier.start(cut, to_host=False)

        repeats, warm = (3, 1) if copies == "group" else (1, 0)  # so many copies take long, and vary little
        return seconds(once, repeats, warm=warm)


def _link(
    executor: Executor, prepared: Prepared, again: dict[int, float], launch_us: float
) -> tuple[Swapping, LinkFit]:
    """What copies, and what a copy takes: measured on a GPU; on a CPU emulated so that the lines can cross, at half the
    time per token that computing takes."""
    cache = executor.cache
    stores = cache.stores()
    host = HostPool(cache.num_blocks, BLOCK, 0, stores, [])
    pairs = list(zip(stores, host.stores, strict=True))
    if prepared.device.type == "cpu":
        per_token = max(again.values()) / max(again)
        nbytes = sum(len(s) * s.shape[2] for s in stores) / BLOCK
        link = Link(launch_us / 1e6, 4 * nbytes / per_token)
        return Swapping(Copier(pairs, asynchronous=False, link=link), pairs), LinkFit(*link)
    swap = Swapping(Copier(pairs, asynchronous=False), pairs)
    probes = [(tokens, how) for tokens in (16, 48, 400, 1500) for how in ("group", "block")]
    sizes = [swap.size(*probe) for probe in probes]
    fit = fit_link([2 * c for c, _ in sizes], [2 * n for _, n in sizes], [swap.seconds(*probe) for probe in probes])
    assert fit is not None
    return swap, fit


if __name__ == "__main__":
    as_a_worker()
    sys.exit(main())
