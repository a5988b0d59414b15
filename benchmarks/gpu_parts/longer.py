"""Steps with a chunk of a prompt and with guesses: recorded as a graph or launched kernel by kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from benchmarks.gpu_parts.bench import Bench, Server, common_workload, decode_plan
from benchmarks.gpu_parts.serving import SHAPE as SERVED
from benchmarks.gpu_parts.serving import engine_config, short
from benchmarks.gpu_parts.steps import BLOCK_SIZE, CONTEXT, SHAPES, loaded
from benchmarks.harness import interleave, paired_ratio, summarise
from engine.executor import LongerSteps
from engine.gpu.executor import GpuExecutor
from engine.model.shape import RANDOM
from engine.scheduling.plan import Plan, Slice

DECODES, CHUNK = 16, 496
GUESSED = 4  # tokens of a verified sequence


def longer_steps(bench: Bench) -> None:
    """Each step both ways, then the common workload both ways, in turns."""
    rows = []
    for shape in SHAPES[:1] if bench.dry else SHAPES:
        _, executor = loaded(bench, shape, (2 * DECODES + 4) * (CONTEXT + 2 * BLOCK_SIZE))
        plans = dict(_plans(bench))
        plain = {name: _seconds(bench, executor, plan) for name, plan in plans.items()}
        steps = LongerSteps(max(p.num_tokens for p in plans.values()), DECODES * GUESSED, GUESSED)
        executor.capture_graphs(DECODES, CONTEXT + 2 * BLOCK_SIZE, sizes=[DECODES], longer=steps)
        for name, plan in plans.items():
            recorded = _seconds(bench, executor, plan)
            rows.append((shape, name, plain[name] * 1e3, recorded * 1e3))
            bench.report.figure(f"{shape}: {name}, launched / recorded", plain[name] / recorded, "x")
        del executor
        bench.free()
    bench.report.table("steps, back to back", ["shape", "step", "launched, ms", "recorded, ms"], rows)

    requests = common_workload(RANDOM["tiny" if bench.dry else SERVED].vocab, bench.dry)
    servers = {}
    for name, longer in (("recorded", True), ("launched", False)):
        config = engine_config(bench).model_copy(update={"graphs_of_longer_steps": longer})
        servers[name] = Server(config, requests)
        servers[name].serve(short(requests, 8))
    rates = interleave(
        {name: lambda server=server: server.serve(requests).tokens_per_s for name, server in servers.items()},
        1 if bench.dry else 2,
    )
    ratio = paired_ratio(rates["recorded"], rates["launched"])
    bench.report.figure(
        "common workload, longer steps recorded / launched",
        ratio.median,
        "x",
        spread=ratio.spread,
        note=", ".join(f"{name} {summarise(runs).median:,.0f} output tokens/s" for name, runs in rates.items()),
    )


def _plans(bench: Bench) -> Iterator[tuple[str, Plan]]:
    decodes, chunk, context = (2, 5, 20) if bench.dry else (DECODES, CHUNK, CONTEXT)
    alone = decode_plan(1, 0, BLOCK_SIZE, prefill=chunk + decodes).slices
    yield f"chunk of {chunk + decodes} tokens", Plan(list(alone))
    beside = decode_plan(decodes, context, BLOCK_SIZE).slices
    moved = alone[0].request
    moved.index = decodes
    moved.block_table = [block + decodes * (context // BLOCK_SIZE + 1) for block in moved.block_table]
    yield (
        f"chunk of {chunk} tokens beside {decodes} decodes",
        Plan([*beside, dataclasses.replace(alone[0], tokens=chunk)]),
    )
    verified = [
        Slice(part.request, GUESSED, part.context_len + 1 - GUESSED, False, drafted=GUESSED - 1) for part in beside
    ]
    yield f"{decodes} sequences of {GUESSED} tokens each", Plan(verified)


def _seconds(bench: Bench, executor: GpuExecutor, plan: Plan) -> float:
    """Time of a step, one launched behind the other: what takes longer counts, launching or computing."""
    batch = executor.build(plan)
    with torch.inference_mode():
        return bench.seconds(lambda: executor.forward(batch), repeats=20)
