"""Decode attention behind a shared prefix: each request for itself, and all in one pass; a part of ``benchmarks.prefix``."""

from __future__ import annotations

import time

import torch

from benchmarks.harness import Report, interleave
from engine.attention.gathered import GatheredAttention
from engine.attention.shared import SharedPrefixAttention
from engine.batch import build_batch
from engine.config import RequestSpec, Sampling
from engine.kv.cache import KVCache
from engine.request import Request
from engine.scheduling.plan import Plan, Slice

BLOCK = 16
HEADS = (9, 3, 64)  # query heads, KV heads, head size of SmolLM2-135M
PREFIXES = (256, 1024, 4096, 8192)
GROUPS = (1, 4, 16, 64)
SUFFIX = 64  # tokens of each request's own
LAYERS = 4


def decode(report: Report, repeats: int) -> None:
    """Time of one layer's decode attention over prefix length and group size."""
    torch.set_num_threads(1)
    rows, slopes = [], {}
    for group in GROUPS:
        times: dict[str, list[float]] = {"own": [], "shared": []}
        for prefix in PREFIXES:
            own, shared = decode_step_ms(group, prefix, repeats)
            times["own"].append(own)
            times["shared"].append(shared)
            model = group * (prefix + SUFFIX) / (prefix + group * SUFFIX)
            rows.append([group, prefix, own, shared, own / shared, model])
        span = PREFIXES[-1] - PREFIXES[0]
        slopes[group] = {side: (t[-1] - t[0]) / span * 1e6 for side, t in times.items()}
    columns = ["group", "prefix tokens", "each its own, ms", "shared pass, ms", "ratio", "bytes ratio (model)"]
    report.table("Decode attention of one layer (float32, one thread)", columns, rows)
    for group in GROUPS[1:]:
        ratio = slopes[group]["own"] / slopes[group]["shared"]
        report.figure(f"slope over prefix length, group {group}: each its own / shared", ratio, "x")
    report.details["slopes_ns_per_token"] = slopes


def decode_step_ms(group: int, prefix: int, repeats: int) -> tuple[float, float]:
    """(each reads its own, shared pass) in ms per layer."""
    heads, kv_heads, width = HEADS
    shared, suffix = prefix // BLOCK, SUFFIX // BLOCK
    batch = build_batch(decode_plan(group, shared, suffix), BLOCK, torch.device("cpu"))
    cache = KVCache(LAYERS, kv_heads, width, shared + group * suffix, BLOCK, torch.float32, torch.device("cpu"))
    cache.data.normal_()
    q = torch.randn(group, heads, width)
    k, v = torch.randn(group, kv_heads, width), torch.randn(group, kv_heads, width)
    backends = {"own": GatheredAttention(cache, *HEADS), "shared": SharedPrefixAttention(cache, *HEADS)}

    def step(name: str) -> float:
        attention = backends[name]
        attention.begin(batch.attention)
        start = time.perf_counter()
        for layer in range(LAYERS):
            attention.forward(layer, q, k, v)
        return (time.perf_counter() - start) / LAYERS * 1e3

    with torch.inference_mode():
        by_backend = interleave({name: lambda name=name: step(name) for name in backends}, max(3, repeats))
    return min(by_backend["own"]), min(by_backend["shared"])


def decode_plan(group: int, shared: int, suffix: int) -> Plan:
    """Decodes behind ``shared`` common blocks, each with ``suffix`` blocks of its own, the last one half full."""
    slices = []
    for index in range(group):
        context = (shared + suffix) * BLOCK - BLOCK // 2
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * (context + 1), Sampling(), 1)
        first = shared + index * suffix
        request.block_table = [*range(shared), *range(first, first + suffix)]
        slices.append(Slice(request, 1, context, False))
    return Plan(slices)
