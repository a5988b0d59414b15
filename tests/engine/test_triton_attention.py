"""The attention kernels against the reference: every shape, ragged mixes, unused cache contents that would show."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.attention.reference import ReferenceAttention
from engine.batch import build_batch
from engine.gpu.attention import TritonAttention
from engine.gpu.attention.configs import segments_for, tile_for
from engine.gpu.ragged import RaggedBuilder
from engine.kv.cache import KVCache
from engine.scheduling.plan import Plan
from tests.conftest import SOAKING
from tests.engine.test_attention import make_sequences
from tests.examples import examples

CPU = torch.device("cpu")
DEVICE = torch.device("cuda") if torch.cuda.is_available() else CPU
# ||out - ref|| / ||ref||; operands rounded to bfloat16 carry 8 bits
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
MIXED = [(1, 33), (7, 0), (1, 2), (5, 20)]


@dataclass
class Case:
    """One batch in both forms, with the same random queries, keys and values."""

    plan: Plan
    cache: KVCache
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    def run(self, heads: tuple[int, int, int], poison: float = float("nan")) -> tuple[torch.Tensor, torch.Tensor]:
        """Output of the reference (in float64 where the batch is float32) and of the kernels on a poisoned cache."""
        reference = ReferenceAttention(self.cache, *heads)
        reference.begin(build_batch(self.plan, self.cache.block_size, DEVICE).attention)
        want = reference.forward(1, self.q, self.k, self.v)
        used = torch.zeros(self.cache.num_blocks * self.cache.block_size, dtype=torch.bool, device=DEVICE)
        for part in self.plan.slices:
            size, table = self.cache.block_size, part.request.block_table
            for place in range(part.context_len + part.tokens):
                used[table[place // size] * size + place % size] = True
        slots = self.cache.data.view(*self.cache.data.shape[:3], -1, heads[2])
        slots[:, :, :, ~used] = poison
        kernels = TritonAttention(self.cache, *heads)
        kernels.begin(RaggedBuilder(self.cache.block_size, DEVICE).build(self.plan).attention)
        return want, kernels.forward(1, self.q, self.k, self.v)


def make_case(batch: list[tuple[int, int]], heads: tuple[int, int, int], block_size: int, dtype: torch.dtype) -> Case:
    num_heads, kv_heads, width = heads
    plan, num_blocks = make_sequences(batch, block_size)
    cache = KVCache(2, kv_heads, width, num_blocks, block_size, dtype, DEVICE)
    cache.data.copy_(torch.randn(cache.data.shape))
    tokens = sum(n for n, _ in batch)
    q, k, v = (torch.randn(tokens, count, width).to(DEVICE, dtype) for count in (num_heads, kv_heads, kv_heads))
    return Case(plan, cache, q, k, v)


def distance(out: torch.Tensor, want: torch.Tensor) -> float:
    assert not out.isnan().any()
    return float((out.double() - want.double()).norm() / want.double().norm())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "heads",
    [(2, 2, 64), (4, 1, 80), (3, 1, 96), (16, 1, 128), (5, 1, 256), (14, 2, 64), (8, 8, 128), (9, 3, 64), (16, 2, 96)],
    ids=str,
)
@pytest.mark.sampled(4)
def test_every_head_size_and_group_equals_the_reference(heads: tuple[int, int, int], dtype: torch.dtype):
    torch.manual_seed(sum(heads))
    want, out = make_case(MIXED, heads, 16, dtype).run(heads)
    assert distance(out, want) < TOLERANCE[dtype]
    assert out.dtype == dtype


@pytest.mark.parametrize("block_size", [16, 24, 32, 64, 128, 256])
def test_every_block_size_equals_the_reference(block_size: int):
    torch.manual_seed(block_size)
    heads = (6, 2, 64)
    want, out = make_case([(1, 150), (9, 70), (1, 260), (70, 3)], heads, block_size, torch.float32).run(heads)
    assert distance(out, want) < 1e-5


@pytest.mark.parametrize(
    "batch",
    [
        [(1, 0)],
        [(1, 700)],
        [(1, c) for c in (0, 1, 31, 32, 33, 63, 64, 65, 500)],
        [(90, 0)],
        [(21, 100)],
        [(5, 40), (5, 0), (3, 17), (5, 300)],
    ],
    ids=["first token", "one long decode", "decodes", "whole prompt", "later chunk", "drafts to verify"],
)
@pytest.mark.parametrize("poison", [float("nan"), 1e30])
@pytest.mark.sampled(3)
def test_what_no_token_may_see_changes_nothing(batch: list[tuple[int, int]], poison: float):
    torch.manual_seed(len(batch))
    heads = (4, 2, 64)
    want, out = make_case(batch, heads, 16, torch.float32).run(heads, poison)
    assert distance(out, want) < 1e-5


@given(
    batch=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 90)), min_size=1, max_size=4),
    group=st.integers(1, 16),
    kv_heads=st.integers(1, 3),
    block_size=st.sampled_from([16, 32, 48, 64]),
    seed=st.integers(0, 99),
)
@settings(max_examples=examples(30) if SOAKING else 4, deadline=None)
def test_any_mix_equals_the_reference(batch, group: int, kv_heads: int, block_size: int, seed: int):
    torch.manual_seed(seed)
    heads = (group * kv_heads, kv_heads, 64)
    want, out = make_case(batch, heads, block_size, torch.float32).run(heads)
    assert distance(out, want) < 1e-5


def test_few_programs_are_cut_into_more_segments_than_many():
    assert segments_for(3, 132) == 64
    assert segments_for(256 * 8, 132) == 1
    assert all(segments_for(n, 132) >= segments_for(n + 1, 132) for n in range(1, 600))


def test_every_shape_has_a_tile_that_holds_a_whole_group():
    for element_bytes in (2, 4):
        for head_dim in (16, 32, 64, 128, 256):
            for rows in (1, 16, 17, 64, 65, 4096):
                for bits in (2, 4, 8, 16):
                    assert tile_for(element_bytes, head_dim, rows, bits).block_m >= 16
