"""A few batches before the clock starts, so that the first iterations do not pay for choosing kernels and growing buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.attention.packed import make_attention
from engine.build import exact_prefill
from engine.config import RequestSpec
from engine.executor import Executor
from engine.request import Request
from engine.scheduler import Plan, Slice

if TYPE_CHECKING:
    from engine.build import Prepared


@torch.inference_mode()
def warm_up(prepared: Prepared) -> None:
    """Compute one chunk, one mixed and one decode batch on a throw-away cache."""
    config, shape, model = prepared.spec.engine, prepared.model.shape, prepared.model
    size = config.block_size
    length = min(prepared.limits.token_budget, prepared.max_model_len - 1, 256)
    requests = []
    for index in range(min(config.max_num_seqs, 16)):
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * length, config.sampling, 1)
        blocks = -(-length // size)
        request.block_table = list(range(index * blocks, (index + 1) * blocks))
        request.tail = index
        requests.append(request)
    cache = prepared.make_cache(len(requests) * -(-length // size), len(requests))
    attention = make_attention(
        prepared.backend, cache, shape.heads, shape.kv_heads, shape.head_dim, exact_prefill=exact_prefill(config)
    )
    executor = Executor(model.decoder, attention)
    decodes = [Slice(r, 1, length - 1, False) for r in requests]
    for slices in (
        [Slice(requests[0], length, 0, True)],
        [*decodes[1:], Slice(requests[0], max(1, length // 2), 0, True)],
        decodes,
    ):
        executor.forward(executor.build(Plan(slices)))
