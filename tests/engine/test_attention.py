"""Every attention backend against attention written out in double precision, over ragged batches."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from engine.attention import PLAIN, gathered
from engine.attention.gathered import alike
from engine.backends import make_attention
from engine.batch import build_batch
from engine.config import RequestSpec, Sampling
from engine.kv.cache import KVCache
from engine.kv.pool import BlockPool
from engine.request import Request
from engine.scheduling.plan import Plan, Slice

# (tokens computed now, tokens already in the pool) per sequence
BATCHES = {
    "one decode": [(1, 9)],
    "first token": [(1, 0)],
    "decodes of different lengths": [(1, 0), (1, 5), (1, 16), (1, 40), (1, 3)],
    "whole prompt": [(23, 0)],
    "later chunk": [(7, 18)],
    "chunks longer than a tile": [(1, 4), (300, 0), (140, 70)],
    "verifications of different lengths": [
        (1, 20),
        (2, 9),
        (4, 17),
        (3, 40),
        (4, 5),
        (6, 30),
        (8, 2),
        (7, 64),
        (2, 33),
    ],
    "mixed": [(1, 33), (12, 0), (1, 2), (5, 30), (1, 15), (16, 16)],
}
HEADS = [(4, 4, 16), (9, 3, 64), (8, 1, 32), (16, 2, 80)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def make_sequences(batch: list[tuple[int, int]], block_size: int) -> tuple[Plan, int]:
    """A plan whose block tables are scattered over the pool."""
    pool = BlockPool(sum(-(-(n + c) // block_size) for n, c in batch) + 5, block_size)
    pool.free(pool.allocate(3, 99, 0), 99)  # so that tables do not start at block 0
    slices = []
    for index, (tokens, context) in enumerate(batch):
        request = Request(
            index, RequestSpec(request_id=str(index), prompt="-"), [0] * (tokens + context), Sampling(), 1
        )
        request.block_table = pool.allocate(pool.blocks_for(tokens + context), index, 0)[::-1]
        request.num_computed_tokens = context
        slices.append(Slice(request, tokens, context, tokens > 1))
    return Plan(slices), pool.num_blocks


def expected(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, group: int) -> torch.Tensor:
    """Causal attention of the last rows of a sequence, token by token and head by head, in float64."""
    tokens, heads, width = q.shape
    out = torch.zeros(tokens, heads, width, dtype=torch.float64)
    for t in range(tokens):
        visible = keys.shape[0] - tokens + t + 1
        for h in range(heads):
            k, v = keys[:visible, h // group].double(), values[:visible, h // group].double()
            weights = torch.softmax(k @ q[t, h].double() / width**0.5, 0)
            out[t, h] = weights @ v
    return out.flatten(1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("backend", [*PLAIN, "native"])
@pytest.mark.sampled(3)
def test_backend_equals_attention_written_out(backend, batch, heads, dtype):
    num_heads, kv_heads, width = heads
    torch.manual_seed(0)
    plan, num_blocks = make_sequences(batch, block_size=16)
    cache = KVCache(2, kv_heads, width, num_blocks, 16, dtype, torch.device("cpu"))
    cache.data.copy_(torch.randn(cache.data.shape) * 50)  # whatever is not overwritten must not be seen
    inputs = build_batch(plan, 16, torch.device("cpu"))
    ordered = sorted(plan.slices, key=lambda s: (s.tokens > 1, s.context_len if s.tokens == 1 else 0))

    context = {s.request.index: torch.randn(2, s.context_len, kv_heads, width).to(dtype) for s in ordered}
    new = {s.request.index: torch.randn(2, s.tokens, kv_heads, width).to(dtype) for s in ordered}
    for part in ordered:
        table = part.request.block_table
        slots = torch.tensor([table[p // 16] * 16 + p % 16 for p in range(part.context_len)], dtype=torch.int64)
        cache.store(1, slots, *context[part.request.index])
    q = torch.randn(sum(s.tokens for s in ordered), num_heads, width).to(dtype)
    k, v = (torch.cat([new[s.request.index][i] for s in ordered]) for i in (0, 1))

    attention = make_attention(backend, cache, num_heads, kv_heads, width)
    attention.begin(inputs.attention)
    out = attention.forward(1, q, k, v)

    start = 0
    for part in ordered:
        keys, values = (torch.cat([context[part.request.index][i], new[part.request.index][i]]) for i in (0, 1))
        want = expected(q[start : start + part.tokens], keys, values, num_heads // kv_heads)
        got = out[start : start + part.tokens].double()
        assert (got - want).abs().max() <= TOLERANCE[dtype] * max(1.0, want.abs().max().item())
        start += part.tokens
    assert out.dtype == dtype
    assert out.shape == (start, num_heads * width)


def test_rows_are_put_together_at_the_least_cost(monkeypatch: pytest.MonkeyPatch):
    assert alike([]) == []
    assert alike([1, 2, 60]) == [(0, 3)]
    assert alike([10] * 20 + [300]) == [(0, 20), (20, 21)]
    monkeypatch.setattr(gathered, "MOST_LENGTHS", 10_000)
    generator = random.Random(3)
    for _ in range(40):
        lengths = sorted(generator.randint(1, 900) for _ in range(8))

        def cost(ranges: list[tuple[int, int]], lengths: list[int] = lengths) -> int:
            return sum(gathered.PASS_TOKENS + (stop - start) * lengths[stop - 1] for start, stop in ranges)

        everything = []
        for cuts in itertools.product((False, True), repeat=7):
            ends = [0, *(n + 1 for n, cut in enumerate(cuts) if cut), 8]
            everything.append(cost(list(itertools.pairwise(ends))))
        assert cost(alike(lengths)) == min(everything)
