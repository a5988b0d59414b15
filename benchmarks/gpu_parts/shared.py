"""Shared-prefix attention on a GPU: one layer's decode attention against the prefix, each request for itself and all in one pass."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.steps import BLOCK_SIZE, layer_seconds
from engine.attention.groups import GroupRule
from engine.config import RequestSpec, Sampling
from engine.gpu.attention import TritonAttention
from engine.kv.cache import KVCache, bytes_per_block
from engine.model.shape import RANDOM
from engine.request import Request
from engine.scheduling.plan import Plan, Slice

SHAPE = "llama-3.1-8b"
PREFIXES = (256, 1024, 4096, 16_384)
GROUPS = (1, 8, 32, 128, 512)
SUFFIX = 64  # tokens of each request's own
ROTATED_BYTES = 1 << 28  # of blocks, read before the first are read again: several times what the chip keeps
GOAL_GROUP, GOAL_SLOPE = 32, 4.0


def shared(bench: Bench) -> None:
    """Time over prefix length for several group sizes, and how much less steeply it rises with one pass for all."""
    groups, prefixes, suffix = ((1, 3), (32, 96), 16) if bench.dry else (GROUPS, PREFIXES, SUFFIX)
    rows, slopes = [], []
    for group in groups:
        own, together = [], []
        for prefix in prefixes:
            cache = _cache(bench, prefix + group * suffix)
            plan = decode_plan(group, prefix, suffix)
            own.append(_seconds(bench, cache, plan, None))
            together.append(_seconds(bench, cache, plan, GroupRule()))
            model = group * (prefix + suffix) / (prefix + group * suffix)
            rows.append([group, prefix, 1e6 * own[-1], 1e6 * together[-1], own[-1] / together[-1], model])
            del cache
            bench.free()
        slopes.append((slope(prefixes, own), slope(prefixes, together)))
    columns = ["group", "prefix tokens", "each its own, us", "one pass, us", "ratio", "bytes ratio (model)"]
    bench.report.table(f"decode attention of one layer behind a shared prefix, {SHAPE}", columns, rows)
    for group, (alone, joint) in zip(groups, slopes, strict=True):
        if group == 1:
            continue
        note = f"{1e12 * alone:,.1f} and {1e12 * joint:,.1f} ps a token of prefix"
        ratio = alone / joint if joint > 0 else float("nan")
        if joint <= 0:
            note += "; the shared pass does not rise with the prefix"
        bench.report.figure(
            f"slope over prefix length, group {group}: each its own / one pass",
            ratio,
            "x",
            goal=GOAL_SLOPE if group == GOAL_GROUP and not bench.dry else None,
            note=note,
        )


def decode_plan(group: int, prefix: int, suffix: int) -> Plan:
    """Decodes behind the same whole blocks, each with ``suffix`` tokens of its own, the one it computes included."""
    common, own = prefix // BLOCK_SIZE, -(-suffix // BLOCK_SIZE)
    context = prefix + suffix - 1
    slices = []
    for index in range(group):
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [1] * (context + 1), Sampling(), 1)
        first = common + index * own
        request.block_table = [*range(common), *range(first, first + own)]
        slices.append(Slice(request, 1, context, False))
    return Plan(slices)


def slope(prefixes: tuple[int, ...], seconds: list[float]) -> float:
    """Seconds a token of prefix: least squares."""
    return float(np.polyfit(prefixes, seconds, 1)[0])


def _cache(bench: Bench, tokens: int) -> KVCache:
    """As many layers as it takes that none is still on the chip when its turn comes again."""
    shape = RANDOM["tiny" if bench.dry else SHAPE]
    dtype = torch.float32 if bench.dry else torch.bfloat16
    blocks = -(-tokens // BLOCK_SIZE)
    layer_bytes = blocks * bytes_per_block(1, shape.kv_heads, shape.head_dim, BLOCK_SIZE, dtype)
    layers = 1 if bench.dry else max(2, min(64, -(-ROTATED_BYTES // layer_bytes)))
    cache = KVCache(layers, shape.kv_heads, shape.head_dim, blocks, BLOCK_SIZE, dtype, bench.device)
    cache.data.normal_()
    return cache


def _seconds(bench: Bench, cache: KVCache, plan: Plan, rule: GroupRule | None) -> float:
    heads = RANDOM["tiny" if bench.dry else SHAPE].heads
    return layer_seconds(bench, TritonAttention(cache, heads, cache.data.shape[2], cache.data.shape[-1], rule), plan)
