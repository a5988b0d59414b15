"""Packed or plain, a linear layer is the same product; norms and rotations are the textbook's."""

from __future__ import annotations

import pytest
import torch

from engine.model import linear
from engine.model.linear import Linear
from engine.model.norm import RMSNorm
from engine.model.rope import Rope
from engine.model.shape import RANDOM

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=["as this machine has it", "plain"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(linear, "can_pack", lambda device, dtype: False)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3, 16, 17, 130])
def test_every_layout_gives_the_product(layout: str, dtype: torch.dtype, bias: bool, rows: int):
    torch.manual_seed(rows)
    weight, x, residual = torch.randn(70, 36), torch.randn(rows, 36), torch.randn(rows, 70)
    offset = torch.randn(70) if bias else None
    weight, x, residual = weight.to(dtype), x.to(dtype), residual.to(dtype)
    offset = None if offset is None else offset.to(dtype)
    exact = x.double() @ weight.double().t() + (0 if offset is None else offset.double())
    layer = Linear(weight, offset)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    with torch.inference_mode():
        torch.testing.assert_close(layer(x).double(), exact, **tolerance)
        expected = exact + residual.double()
        torch.testing.assert_close(layer.add_to(residual.clone(), x).double(), expected, **tolerance)
    assert layer.out_features == 70


def test_weights_are_packed_where_the_machine_can():
    cpu = torch.device("cpu")
    assert linear.can_pack(cpu, torch.float32) == torch.backends.mkldnn.is_available()
    assert not linear.can_pack(cpu, torch.float16)
    assert not linear.can_pack(torch.device("meta"), torch.float32)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("heads", [None, 5])
def test_rms_norm_is_the_formula_rounded_before_the_weight(dtype: torch.dtype, heads: int | None):
    torch.manual_seed(1)
    dims = (24,) if heads is None else (heads, 24)
    weight, x = torch.randn(dims).to(dtype), (torch.randn(7, *dims) * 3).to(dtype)
    x[0] = 0
    quotient = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = quotient.to(dtype) * weight
    ours = RMSNorm(weight, 1e-5)(x)
    assert ours.dtype == dtype
    # the quotient may fall on the other side of a rounding boundary, hence one unit in its last place
    torch.testing.assert_close(ours, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_rotation_turns_each_pair_of_halves_by_its_angle():
    shape = RANDOM["tiny"]
    rope = Rope(shape, 100, torch.device("cpu"), torch.float32)
    x = torch.randn(3, 6, shape.head_dim)
    positions = torch.tensor([0, 7, 99])
    turned = rope.rotate(x, rope.at(positions))
    half = shape.head_dim // 2
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    frequencies = shape.rope_theta ** (-torch.arange(half).double() / half)
    angles = positions.double()[:, None, None] * frequencies
    expected = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned[..., :half].double(), expected.real, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned[..., half:].double(), expected.imag, rtol=1e-4, atol=1e-5)
    assert torch.equal(turned[0], x[0])
