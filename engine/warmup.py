"""A few batches before the clock starts, so that the first iterations do not pay for choosing kernels and growing buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.attention import backend_class
from engine.config import RequestSpec
from engine.executor import Executor
from engine.kv.cache import KVCache
from engine.request import Request
from engine.scheduler import Plan, Slice

if TYPE_CHECKING:
    from engine.build import Prepared


@torch.inference_mode()
def warm_up(prepared: Prepared) -> None:
    """Compute one chunk, one mixed, one decode and with speculation two verify batches on a throw-away cache."""
    config, shape, model = prepared.spec.engine, prepared.model.shape, prepared.model
    size = config.block_size
    length = min(prepared.limits.token_budget, prepared.max_model_len - 1, 256)
    requests = []
    for index in range(min(config.max_num_seqs, 16)):
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * length, config.sampling, 1)
        blocks = -(-length // size)
        request.block_table = list(range(index * blocks, (index + 1) * blocks))
        requests.append(request)
    cache = KVCache(
        shape.layers,
        shape.kv_heads,
        shape.head_dim,
        len(requests) * -(-length // size),
        size,
        model.dtype,
        prepared.device,
    )
    attention = backend_class(prepared.backend)(cache, shape.heads, shape.kv_heads, shape.head_dim)
    executor = Executor(model.decoder, attention)
    decodes = [Slice(r, 1, length - 1, False) for r in requests]
    batches = [
        [Slice(requests[0], length, 0, True)],
        [*decodes[1:], Slice(requests[0], max(1, length // 2), 0, True)],
        decodes,
    ]
    if config.speculation is not None:
        rows = min(config.speculation.k + 1, length)
        verifies = [Slice(r, rows, length - rows, False) for r in requests]
        batches += [verifies[:1], verifies]
    for slices in batches:
        executor.forward(executor.build(Plan(slices)))
