"""The small kernels against the same arithmetic in PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.gpu.kernels.activation import silu_mul
from engine.gpu.kernels.norm import add_norm
from engine.gpu.kernels.rope_store import rope_store
from engine.gpu.kernels.sample import sample_tokens
from engine.kv.cache import KVCache
from engine.model.norm import RMSNorm
from engine.model.rope import Rope
from engine.model.shape import RANDOM

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def close(out: torch.Tensor, want: torch.Tensor) -> bool:
    distance = (out.double() - want.double()).norm() / want.double().norm()
    return not out.isnan().any() and float(distance) < TOLERANCE[out.dtype]


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(0)
    return request.param


@pytest.mark.parametrize("width", [64, 576, 1024])
def test_norm_adds_the_residual_first(width: int, dtype: torch.dtype):
    x, delta = (torch.randn(5, width, device=DEVICE).to(dtype) for _ in range(2))
    weight = torch.rand(width, device=DEVICE).to(dtype)
    total = x + delta
    assert close(add_norm(total.clone(), None, weight, 1e-5), RMSNorm(weight, 1e-5)(total))
    assert close(add_norm(x, delta, weight, 1e-5), RMSNorm(weight, 1e-5)(total))
    assert close(x, total)


@pytest.mark.parametrize("width", [128, 1536])
def test_gate_times_other_half(width: int, dtype: torch.dtype):
    gate_up = torch.randn(4, 2 * width, device=DEVICE).to(dtype)
    gate, up = gate_up.chunk(2, -1)
    assert close(silu_mul(gate_up), F.silu(gate) * up)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm per head"])
@pytest.mark.parametrize("heads", [(4, 2, 16), (9, 3, 64), (5, 1, 80)], ids=str)
def test_rotation_and_store_equal_the_separate_steps(heads: tuple[int, int, int], norm: bool, dtype: torch.dtype):
    import dataclasses

    num_heads, kv_heads, width = heads
    shape = dataclasses.replace(RANDOM["tiny"], heads=num_heads, kv_heads=kv_heads, head_dim=width)
    rope = Rope(shape, 64, DEVICE, dtype)
    positions = torch.tensor([0, 7, 63, 20, 1], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([3, 40, 17, -1, 0], dtype=torch.int32, device=DEVICE)
    qkv = torch.randn(5, (num_heads + 2 * kv_heads) * width, device=DEVICE).to(dtype)
    weight = torch.rand(num_heads + kv_heads, width, device=DEVICE).to(dtype) if norm else None

    split = qkv.view(5, -1, width)
    qk, v = split[:, : num_heads + kv_heads], split[:, num_heads + kv_heads :]
    if weight is not None:
        qk = RMSNorm(weight, 1e-6)(qk)
    qk = rope.rotate(qk, rope.at(positions))
    stored = slots >= 0
    want, got = (KVCache(1, kv_heads, width, 4, 16, dtype, DEVICE) for _ in range(2))
    want.store(0, slots[stored].long(), qk[stored][:, num_heads:], v[stored])

    q = rope_store(qkv, positions, slots, rope.table, got.key_blocks[0], got.value_blocks[0], num_heads, weight, 1e-6)
    assert close(q, qk[:, :num_heads])
    assert close(got.data, want.data)
    assert torch.equal(got.data != 0, want.data != 0)  # nothing written elsewhere


def rows_of(temperatures: list[float], seeds: list[int], counters: list[int]) -> tuple[torch.Tensor, ...]:
    return (
        torch.tensor(temperatures, dtype=torch.float32, device=DEVICE),
        torch.tensor(seeds, dtype=torch.int32, device=DEVICE),
        torch.tensor(counters, dtype=torch.int32, device=DEVICE),
    )


@pytest.mark.parametrize("vocab", [300, 8192, 20_000])
def test_greedy_takes_the_most_likely_token(vocab: int, dtype: torch.dtype):
    logits = torch.randn(3, vocab, device=DEVICE).to(dtype)
    logits[1, vocab - 1] = 9.0
    logits[2, [5, vocab // 2]] = 9.0
    tokens = sample_tokens(logits, *rows_of([0.0] * 3, [1, 2, 3], [0] * 3))
    assert tokens.tolist() == [int(logits[0].argmax()), vocab - 1, 5]


def test_a_draw_depends_on_its_request_and_position_only():
    torch.manual_seed(1)
    logits = torch.randn(1, 500, device=DEVICE)
    alone = sample_tokens(logits, *rows_of([1.0], [77], [4]))
    company = sample_tokens(
        logits.expand(6, -1).contiguous(), *rows_of([1.0] * 6, [1, 2, 3, 77, 5, 6], [9, 9, 9, 4, 9, 9])
    )
    assert company[3] == alone[0]
    positions = sample_tokens(logits.expand(20, -1).contiguous(), *rows_of([1.0] * 20, [77] * 20, list(range(20))))
    assert len(set(positions.tolist())) > 5


@pytest.mark.parametrize("temperature", [0.6])
def test_draws_follow_the_softmax_at_the_temperature(temperature: float):
    torch.manual_seed(2)
    logits = torch.randn(1, 12, device=DEVICE) * 1.5
    count = 500
    many = logits.expand(count, -1).contiguous()
    tokens = sample_tokens(many, *rows_of([temperature] * count, list(range(count)), [0] * count))
    law = (logits[0] / temperature).softmax(-1).cpu()
    seen = torch.bincount(tokens.cpu(), minlength=12) / count
    # five standard deviations of each frequency
    assert ((seen - law).abs() <= 5 * (law * (1 - law) / count).sqrt() + 1e-9).all()
