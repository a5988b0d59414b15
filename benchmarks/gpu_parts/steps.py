"""Single steps held against the measured limit: forward passes of named shapes, and attention alone."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu_parts.bench import Bench, decode_plan, mixed_contexts, ragged_plan, step_seconds
from engine.cost import cost_model
from engine.gpu.attention import TritonAttention
from engine.gpu.executor import GpuExecutor
from engine.gpu.ragged import RaggedBuilder
from engine.kv.cache import KVCache, bytes_per_block
from engine.model.device import resolve_dtype
from engine.model.load import LoadedModel, load, resolve
from engine.model.shape import RANDOM, ModelShape
from engine.scheduling.plan import Plan

SHAPES = ("smollm2-135m", "qwen3-0.6b", "llama-3.1-8b")
BATCHES = (1, 16, 64, 256)
PROMPTS = (512, 2048, 8192)
CONTEXT = 1024
BLOCK_SIZE = 16
GOAL_DECODE = 0.80  # of the copy bandwidth, Llama-3.1-8B shape
GOAL_PREFILL = 0.65  # of the matrix rate, 2,048 and 8,192 tokens
ROTATED_BYTES = 1 << 30  # attention alone reads at least this much before it comes back to the same layer


def forward_passes(bench: Bench) -> None:
    """Decode at several batches and prefill at several lengths, as shares of what bounds them."""
    rows = []
    for name in SHAPES[:1] if bench.dry else SHAPES:
        batches, prompts, context = ((1, 2), (5,), 20) if bench.dry else (BATCHES, PROMPTS, CONTEXT)
        model, executor = loaded(bench, name, batches[-1] * (context + 1), prompts[-1])
        cost = cost_model(model)
        executor.capture_graphs(batches[-1], context + BLOCK_SIZE, sizes=batches)
        for batch in batches:
            plan = decode_plan(batch, context, BLOCK_SIZE)
            seconds = step_seconds(bench, executor, plan)
            flops, moved = cost.of(plan, batch)
            limit = max(flops / bench.peaks["flops_per_s"], moved / bench.peaks["bytes_per_s"])
            rows.append((name, f"decode {batch} x {context}", seconds * 1e3, limit * 1e3, limit / seconds))
            _figure(bench, name, f"decode at batch {batch}", limit / seconds, GOAL_DECODE)
        for prompt in prompts:
            plan = decode_plan(1, 0, BLOCK_SIZE, prefill=prompt)
            seconds = step_seconds(bench, executor, plan, repeats=8)
            flops, moved = cost.of(plan, 1)
            limit = max(flops / bench.peaks["flops_per_s"], moved / bench.peaks["bytes_per_s"])
            rows.append((name, f"prefill {prompt}", seconds * 1e3, limit * 1e3, limit / seconds))
            _figure(
                bench, name, f"prefill of {prompt:,} tokens", limit / seconds, GOAL_PREFILL if prompt > 512 else None
            )
        del executor, model
        bench.free()
    bench.report.table("forward passes", ["shape", "batch", "ms", "limit, ms", "share of the limit"], rows)


def loaded(bench: Bench, name: str, *tokens: int) -> tuple[LoadedModel, GpuExecutor]:
    """A named shape with random weights, and its device side over a cache that holds any of these numbers of tokens, full of noise."""
    dtype = resolve_dtype("float32" if bench.dry else "bfloat16", bench.device)
    model = load(resolve(bench.shape(name)), bench.device, dtype)
    shape, blocks = model.shape, max(tokens) // BLOCK_SIZE + BATCHES[-1]  # every sequence's last block may be part full
    cache = KVCache(shape.layers, shape.kv_heads, shape.head_dim, blocks, BLOCK_SIZE, dtype, bench.device)
    cache.data.normal_()
    return model, GpuExecutor(model.decoder, TritonAttention(cache, shape.heads, shape.kv_heads, shape.head_dim))


def attention_alone(bench: Bench) -> None:
    """Decode attention as a share of the copy bandwidth: keys and values read once."""
    shape = RANDOM["tiny" if bench.dry else "qwen3-0.6b"]
    dtype = torch.float32 if bench.dry else torch.bfloat16
    rows = []
    for batch in (1, 2) if bench.dry else (1, 8, 64, 256):
        for context in (40,) if bench.dry else (1024, 8192, 32_768):
            blocks = batch * -(-context // BLOCK_SIZE)
            layer_bytes = blocks * bytes_per_block(1, shape.kv_heads, shape.head_dim, BLOCK_SIZE, dtype)
            layers = 1 if bench.dry else max(1, min(64, ROTATED_BYTES // layer_bytes))
            try:
                cache = KVCache(layers, shape.kv_heads, shape.head_dim, blocks, BLOCK_SIZE, dtype, bench.device)
                cache.data.normal_()
            except (MemoryError, RuntimeError, ValueError) as error:
                rows.append((batch, context, str(error)[:40], "", ""))
                continue
            seconds = _attention_seconds(bench, cache, shape.heads, batch, context)
            share = layer_bytes / seconds / bench.peaks["bytes_per_s"]
            rows.append((batch, context, seconds * 1e6, layer_bytes / seconds / 1e9, share))
            bench.report.figure(f"attention, batch {batch}, context {context:,}", share, "of copy bandwidth")
            del cache
            bench.free()
    for batch in (2,) if bench.dry else (32, 128, 256):
        rows.append(_mixed(bench, shape, dtype, batch, 40 if bench.dry else 2048))
    bench.report.table(
        "attention alone, decode", ["batch", "context", "us per layer", "GB/s", "share of copy bandwidth"], rows
    )


def _mixed(bench: Bench, shape: ModelShape, dtype: torch.dtype, batch: int, longest: int) -> tuple[Any, ...]:
    """Contexts of all lengths in one batch, as they are where requests come and go."""
    contexts = mixed_contexts(batch, longest)
    plan = ragged_plan([context - 1 for context in contexts], BLOCK_SIZE)
    blocks = sum(-(-context // BLOCK_SIZE) for context in contexts)
    layer_bytes = sum(contexts) * bytes_per_block(1, shape.kv_heads, shape.head_dim, 1, dtype)
    layers = 1 if bench.dry else max(1, min(64, ROTATED_BYTES // layer_bytes))
    cache = KVCache(layers, shape.kv_heads, shape.head_dim, blocks, BLOCK_SIZE, dtype, bench.device)
    cache.data.normal_()
    attention = TritonAttention(cache, shape.heads, shape.kv_heads, shape.head_dim)
    seconds = layer_seconds(bench, attention, plan)
    share = layer_bytes / seconds / bench.peaks["bytes_per_s"]
    what = f"{longest // 10:,} to {longest:,}"
    bench.report.figure(f"attention, batch {batch}, contexts {what}", share, "of copy bandwidth")
    return batch, what, seconds * 1e6, layer_bytes / seconds / 1e9, share


def _attention_seconds(bench: Bench, cache: KVCache, heads: int, batch: int, context: int) -> float:
    attention = TritonAttention(cache, heads, cache.data.shape[2], cache.data.shape[-1])
    return layer_seconds(bench, attention, decode_plan(batch, context - 1, BLOCK_SIZE))


def layer_seconds(bench: Bench, attention: TritonAttention, plan: Plan) -> float:
    """Device time of one layer's attention; layers take turns, so that the cache is not read from L2."""
    cache = attention.cache
    layers = len(cache.key_rows)
    builder = RaggedBuilder(BLOCK_SIZE, bench.device, attention.passes, tail_tokens=attention.tail_tokens)
    attention.begin(builder.build(plan).attention)
    rows = (plan.num_tokens, attention.num_heads, attention.head_dim)
    q = torch.randn(rows, device=bench.device, dtype=cache.dtype)

    def all_layers() -> None:
        for layer in range(layers):
            attention.attend(layer, q)

    with torch.inference_mode():
        if bench.device.type != "cuda":
            return bench.seconds(all_layers) / layers
        all_layers()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            all_layers()
        return bench.seconds(graph.replay, repeats=10) / layers


def _figure(bench: Bench, shape: str, what: str, share: float, goal: float | None) -> None:
    wanted = goal if shape == "llama-3.1-8b" and not bench.dry else None
    bench.report.figure(f"{shape}: {what}", share, "of the limit", goal=wanted)
