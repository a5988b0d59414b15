"""Native kernels one by one: the numbers of PyTorch's own operations, whatever the widths and however many threads."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.model.norm import RMSNorm
from engine.native.code import FLOAT, Code
from engine.native.compile import compiled, lanes_for, widest
from engine.native.maths import exp2, four_totals, read, total, write
from engine.native.pointwise import ROWS, NormSpec, RopeSpec, norm_rows, rope_store, silu_mul
from engine.native.team import most_threads

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CLOSE = {"float32": 2e-6, "bfloat16": 1e-2}
WIDTHS = [4, 48, 64, 80, 576, 1536]


def power_of_two(code: Code) -> None:
    """Arguments: numbers in, numbers out; a vector of four."""
    numbers, out = code.pointers(2)
    code.store(exp2(code, code.load(numbers, 0, FLOAT, 4)), out, 0)


def reductions(code: Code) -> None:
    """Arguments: four vectors, out: their four sums, then the sum of the first."""
    numbers, out = code.pointers(2)
    vectors = [code.load(numbers, n * widest(), FLOAT, widest()) for n in range(4)]
    code.store(four_totals(code, vectors), out, 0)
    code.store(total(code, vectors[0]), out, 4)


def converted(code: Code, lanes: int) -> None:
    """Arguments: float32 in, bfloat16 out, float32 again."""
    numbers, narrow, wide = code.pointers(3)
    write(code, "bfloat16", code.load(numbers, 0, FLOAT, lanes), narrow, code.number(0))
    code.store(read(code, "bfloat16", narrow, code.number(0), lanes), wide, 0)


def test_powers_of_two_are_right_to_the_last_digits() -> None:
    kernel = compiled(power_of_two)
    x = torch.cat((torch.linspace(-125, 125, 4000), torch.linspace(-1, 1, 4000)))
    out = torch.empty_like(x)
    for at in range(0, len(x), 4):
        kernel(1, x[at:].data_ptr(), out[at:].data_ptr())
    want = torch.exp2(x.double())
    assert ((out.double() - want).abs() / want).max() < 2.5e-7
    edge = torch.tensor([-1e30, -130.0, 300.0, float("nan")])
    kernel(1, edge.data_ptr(), out.data_ptr())
    assert out[:2].tolist() == [0.0, 0.0]
    assert out[2] > 1e37
    assert out[3].isnan()


def test_lanes_are_added_in_every_place() -> None:
    numbers = torch.arange(4 * widest(), dtype=torch.float32) ** 2
    out = torch.empty(5)
    compiled(reductions)(1, numbers.data_ptr(), out.data_ptr())
    sums = numbers.view(4, -1).sum(1)
    assert torch.equal(out, torch.cat((sums, sums[:1])))


def test_numbers_are_rounded_to_bfloat16_as_pytorch_does() -> None:
    torch.manual_seed(0)
    for x in (torch.randn(4), torch.randn(4) * 1e30, torch.tensor([1.00390625, 1.01171875, -0.0, float("inf")])):
        narrow, wide = torch.empty(4, dtype=torch.bfloat16), torch.empty(4)
        compiled(converted, 4)(1, x.data_ptr(), narrow.data_ptr(), wide.data_ptr())
        assert torch.equal(narrow, x.bfloat16())
        assert torch.equal(wide, narrow.float())


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_norm_is_the_norm_of_the_plain_path(width: int, kind: str) -> None:
    torch.manual_seed(width)
    for rows in (1, 3, ROWS, 2 * ROWS + 1):
        x, weight = torch.randn(rows, width).to(DTYPES[kind]), torch.rand(width).to(DTYPES[kind])
        out = torch.empty_like(x)
        kernel = compiled(norm_rows, NormSpec(kind, width, 1e-5, lanes_for(width)))
        kernel(2, -(-rows // ROWS), rows, x.data_ptr(), weight.data_ptr(), out.data_ptr())
        want = RMSNorm(weight, 1e-5)(x)
        assert torch.allclose(out.float(), want.float(), rtol=CLOSE[kind], atol=CLOSE[kind])


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_gate_is_silu_times_up(width: int, kind: str) -> None:
    torch.manual_seed(width)
    both = (torch.randn(5, 2 * width) * 6).to(DTYPES[kind])
    both[0, 0], both[1, 1] = -200.0, 200.0
    out = torch.empty(5, width, dtype=both.dtype)
    compiled(silu_mul, kind, width, lanes_for(width))(2, 5, both.data_ptr(), out.data_ptr())
    gate, up = both.chunk(2, -1)
    want = F.silu(gate) * up
    assert torch.allclose(out.float(), want.float(), rtol=CLOSE[kind], atol=CLOSE[kind])


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("stores", [False, True])
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("head_dim", [8, 64, 80])
def test_heads_are_turned_and_stored_as_on_the_plain_path(head_dim: int, kind: str, stores: bool, normed: bool) -> None:
    heads, kv_heads, rows, slots = 6, 2, 7, 40
    torch.manual_seed(head_dim)
    dtype = DTYPES[kind]
    qkv = torch.randn(rows, heads + 2 * kv_heads, head_dim).to(dtype)
    positions, places = torch.randint(0, 50, (rows,)), torch.randperm(slots)[:rows]
    angles = torch.randn(50, head_dim // 2)
    cos, sin = angles.cos(), angles.sin()
    table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), 1).unsqueeze(2).to(dtype)
    weight = (torch.rand(heads + kv_heads, head_dim) + 0.5).to(dtype)
    spec = RopeSpec(kind, heads, kv_heads, head_dim, lanes_for(head_dim // 2), 1e-6 if normed else None, stores)
    q = torch.zeros(rows, heads if stores else heads + kv_heads, head_dim, dtype=dtype)
    keys, values = torch.zeros(2, kv_heads, slots, head_dim, dtype=dtype)
    tensors = (positions, places, qkv, table, weight, q, keys, values)
    compiled(rope_store, spec)(2, rows, slots, *(tensor.data_ptr() for tensor in tensors))

    qk, v = qkv.split_with_sizes((heads + kv_heads, kv_heads), 1)
    qk = RMSNorm(weight, 1e-6)(qk) if normed else qk
    chosen = table.index_select(0, positions)
    want = torch.addcmul(qk * chosen[:, 0], qk.roll(head_dim // 2, -1), chosen[:, 1])
    assert torch.allclose(q.float(), want[:, : q.shape[1]].float(), rtol=CLOSE[kind], atol=2 * CLOSE[kind])
    if stores:
        stored = keys[:, places].transpose(0, 1)
        assert torch.allclose(stored.float(), want[:, heads:].float(), rtol=CLOSE[kind], atol=2 * CLOSE[kind])
        assert torch.equal(values[:, places].transpose(0, 1), v)
    others = [slot for slot in range(slots) if not stores or slot not in places.tolist()]
    assert not keys[:, others].any()
    assert not values[:, others].any()


def test_every_item_is_done_once_whoever_takes_it() -> None:
    def count(code: Code) -> None:
        """Arguments: items, counts [items] int32."""
        (items,) = code.numbers(1)
        (counts,) = code.pointers(1)
        with code.items(items) as item:
            from engine.native.code import INT32

            code.store(code.load(counts, item, INT32) + 1, counts, item)

    counts: Any = (ctypes.c_int32 * 5000)()
    torch.set_num_threads(2)
    compiled(count)(most_threads(), 5000, ctypes.addressof(counts))
    assert set(counts) == {1}
