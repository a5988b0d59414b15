"""What reading a packed cache costs on this device: attention of a decode step over the packed form and over the plain
one.

Measured in a moment before a run with a codec starts, at two contexts, so that what a step costs whatever its context
(packing the new token, mixing channels) and what every token of context costs (unpacking it, against reading more
bytes) can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from engine.backends import BACKENDS, make_attention, make_executor
from engine.block_table import blocks_for
from engine.config import RequestSpec
from engine.kv.cache import KVCache
from engine.kv.quantized import Fixed, QuantizedCache
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.peaks import shortest
from engine.start.prepared import Prepared


@dataclass(frozen=True)
class ReadingSize:
    """How much is read."""

    requests: int  # that decode together
    contexts: tuple[int, int]  # tokens of each
    most_bytes: int  # of the plain cache made for it; fewer layers than the model has where all would be larger
    budget_s: float  # for one form at one context


FEWEST_TRIES = 3  # one may have been interrupted
CPU = ReadingSize(2, (128, 512), 128 << 20, 0.04)
GPU = ReadingSize(4, (4096, 16_384), 1 << 30, 0.02)


@torch.inference_mode()
def measure_attention(prepared: Prepared, extent: ReadingSize | None = None) -> dict[str, Any] | None:
    """Seconds that attention over all layers takes in a decode step of ``requests`` requests, the best of a few tries.

    Returns ``context_tokens`` (of all requests together) and for each the seconds ``packed`` and ``plain``; None at
    full precision, and where kernels are interpreted, whose times mean nothing.
    """
    codec, device = prepared.codec, prepared.device
    if codec is None:
        return None
    if extent is None:
        if BACKENDS[prepared.backend]().executor.kernels and device.type == "cpu":
            return None
        extent = GPU if device.type == "cuda" else CPU
    longest = min(extent.contexts[1], prepared.max_model_len)
    contexts = (max(1, longest * extent.contexts[0] // extent.contexts[1]), longest)
    size = prepared.spec.engine.block_size
    blocks = extent.requests * blocks_for(longest, size)
    shape, dtype = prepared.model.shape, prepared.model.dtype
    per_layer = int(shape.kv_bytes_per_token(dtype.itemsize)) // shape.layers * blocks * size
    layers = max(1, min(shape.layers, extent.most_bytes // per_layer))
    dimensions = (layers, shape.kv_heads, shape.head_dim, blocks, size, dtype, device)
    packed = QuantizedCache(codec, *dimensions, tails=extent.requests)
    fixed = prepared.fixed
    Fixed(
        None if fixed.scales is None else fixed.scales[:layers],
        None if fixed.centre is None else fixed.centre[:layers],
    ).apply(packed)
    timings: dict[str, Any] = {"context_tokens": [extent.requests * context for context in contexts]}
    for name, cache in (("packed", packed), ("plain", KVCache(*dimensions))):
        passes = [_pass(prepared, cache, layers, extent.requests, context) for context in contexts]
        timings[name] = [
            shortest(work, device, extent.budget_s, FEWEST_TRIES) * shape.layers / layers for work in passes
        ]
    return timings


def _pass(prepared: Prepared, cache: KVCache, layers: int, count: int, context: int) -> Callable[[], None]:
    """One decode step's attention over every layer of a cache, ready to be timed."""
    shape = prepared.model.shape
    attention = make_attention(prepared.backend, cache, shape.heads, shape.kv_heads, shape.head_dim)
    blocks = blocks_for(context, cache.block_size)
    slices = []
    for index in range(count):
        sampling = prepared.spec.engine.sampling
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * context, sampling, 1, tail=index)
        request.block_table = list(range(index * blocks, (index + 1) * blocks))
        slices.append(Slice(request, 1, context - 1, False))
    executor = make_executor(prepared.backend, prepared.model.decoder, attention, draws_on_device=False)
    batch = executor.build(Plan(slices)).attention
    q = torch.randn(count, shape.heads, shape.head_dim, device=cache.device).to(cache.dtype)
    k, v = torch.randn(2, count, shape.kv_heads, shape.head_dim, device=cache.device).to(cache.dtype)

    def work() -> None:
        attention.begin(batch)
        for layer in range(layers):
            attention.read(layer, q, k, v)

    return work
