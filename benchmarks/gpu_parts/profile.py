"""Where a step's time goes: device time by kernel, from PyTorch's profiler, and how much of a whole run the device is at work."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.bench import (
    Bench,
    Server,
    common_workload,
    decode_plan,
    mixed_contexts,
    ragged_plan,
)
from benchmarks.gpu_parts.serving import SHAPE as SERVED
from benchmarks.gpu_parts.serving import engine_config
from benchmarks.gpu_parts.steps import BLOCK_SIZE, CONTEXT, loaded
from engine.gpu.batch import GpuBatch
from engine.gpu.executor import GpuExecutor
from engine.model.shape import RANDOM

SHAPE = "llama-3.1-8b"
STEPS = ((1, 0), (64, 0), (256, 0), (1, 2048), (1, 8192))  # rows and tokens of a new prompt; 0: each decodes one
REPEATS = 10
MOST_KERNELS = 14
NAME = 90  # characters of a kernel's name that are kept


def where_time_goes(bench: Bench) -> None:
    """Single steps of the Llama-3.1-8B shape without graphs, then half the common workload as it is served."""
    steps = ((2, 0), (1, 5)) if bench.dry else STEPS
    _, executor = loaded(bench, SHAPE, *(prompt or rows * (CONTEXT + 1) for rows, prompt in steps))
    for rows, prompt in steps:
        context = 0 if prompt else (20 if bench.dry else CONTEXT)
        batch = executor.build(decode_plan(rows, context, BLOCK_SIZE, prefill=prompt))
        name = f"prefill of {prompt:,} tokens" if prompt else f"decode, batch {rows}"
        _profiled(bench, f"{SHAPE}: {name}", partial(_steps, executor, batch, 1 if bench.dry else REPEATS))
    del executor
    bench.free()
    _recorded(bench)
    requests = common_workload(RANDOM["tiny" if bench.dry else SERVED].vocab, bench.dry)[:128]
    requests = [request.model_copy(update={"max_tokens": min(request.max_tokens, 128)}) for request in requests]
    server = Server(engine_config(bench), requests)
    server.serve(requests)
    _profiled(bench, "the common workload's first 128 requests, 128 tokens each", lambda: server.serve(requests))


def _recorded(bench: Bench) -> None:
    """A decode step of the common workload at its fullest, replayed."""
    batch, longest = (2, 20) if bench.dry else (256, 2 * CONTEXT)
    contexts = mixed_contexts(batch, longest)
    _, executor = loaded(bench, SERVED, sum(contexts) + batch)
    executor.capture_graphs(batch, longest + BLOCK_SIZE, sizes=[batch])
    built = executor.build(ragged_plan(contexts, BLOCK_SIZE))
    name = f"{SERVED}: decode, batch {batch}, contexts {longest // 10:,} to {longest:,}, as a graph"
    seconds = bench.seconds(partial(_steps, executor, built, 1))
    bench.report.figure(name, seconds * 1e3, "ms", better="lower", note=f"{sum(contexts):,} tokens of context")
    _profiled(bench, name, partial(_steps, executor, built, 1 if bench.dry else REPEATS))
    del executor, built
    bench.free()


@torch.inference_mode()
def _steps(executor: GpuExecutor, batch: GpuBatch, count: int) -> None:
    for _ in range(count):
        executor.forward(batch)


def _profiled(bench: Bench, name: str, work: Callable[[], Any]) -> None:
    """One table: kernels by their share of the device's time; one figure: the device's share of the time that passed."""
    gpu = bench.device.type == "cuda"
    work()
    if gpu:
        torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiled:
        start = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        passed = 1e6 * (time.perf_counter() - start)
    spent: dict[str, tuple[float, int]] = {}
    for event in profiled.key_averages():
        us = event.self_device_time_total if gpu else event.self_cpu_time_total
        before = spent.get(event.key[:NAME], (0.0, 0))
        spent[event.key[:NAME]] = before[0] + us, before[1] + event.count
    total = sum(us for us, _ in spent.values()) or 1.0
    most = sorted(spent.items(), key=lambda kernel: -kernel[1][0])[:MOST_KERNELS]
    bench.report.table(
        f"device time, {name}",
        ["kernel", "share", "launches", "us each"],
        [(kernel, us / total, count, us / max(1, count)) for kernel, (us, count) in most],
    )
    bench.report.figure(
        f"device at work, {name}", total / passed, "of the time that passed", note="with the profiler's own cost"
    )
