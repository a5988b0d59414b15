"""Codecs: packing loses nothing, an element is off by half a step at most, and bytes are what the formula says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.config.errors import EngineError
from engine.config.techniques import KVQuantization
from engine.kv.cache import MANY_TOKENS, copy_tokens
from engine.kv.codecs import make_codec
from engine.kv.codecs.forms import Float8, PerChannel, PerToken, Symmetric8
from engine.kv.codecs.packing import BITS, pack, packed_width, unpack
from engine.kv.codecs.rotation import hadamard

FULL = torch.float32  # metadata that is not rounded, so that half a step is the whole error


@given(data=st.data(), bits=st.sampled_from(BITS))
def test_unpacking_gives_back_what_was_packed(data: st.DataObject, bits: int) -> None:
    count = 8 // math.gcd(8, bits) * data.draw(st.integers(1, 20))
    rows = data.draw(st.lists(st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count), min_size=1))
    codes = torch.tensor(rows, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (len(rows), packed_width(count, bits))
    assert torch.equal(unpack(packed, bits), codes)


@pytest.mark.parametrize("bits", BITS)
def test_every_code_survives_in_every_place_of_a_byte(bits: int) -> None:
    codes = torch.arange(2**bits, dtype=torch.uint8).repeat(8).view(-1, 8)
    for shift in range(8):
        turned = codes.roll(shift, -1)
        assert torch.equal(unpack(pack(turned, bits), bits), turned)


def numbers(*shape: int, outliers: bool = True) -> torch.Tensor:
    torch.manual_seed(3)
    x = torch.randn(*shape)
    if outliers:
        x[..., 3] *= 30
    return x


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", [4, 16, 64])
def test_an_element_is_off_by_half_a_step_at_most_per_token(bits: int, group: int) -> None:
    x = numbers(3, 32, 64)
    form = PerToken(bits, group, FULL)
    codes, meta = form.encode(x)
    back = form.decode(codes, meta, torch.float32)
    step = meta[..., 0].repeat_interleave(group, -1)
    assert ((back - x).abs() <= step / 2 * (1 + 1e-5) + 1e-6).all()
    assert (back != x).any()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("group", [4, 16, 32])
def test_an_element_is_off_by_half_a_step_at_most_per_channel(bits: int, group: int) -> None:
    x = numbers(3, 32, 64)
    form = PerChannel(bits, group, FULL)
    codes, meta = form.encode(x)
    back = form.decode(codes, meta, torch.float32)
    step = meta[..., 0].repeat_interleave(group, -2)
    assert ((back - x).abs() <= step / 2 * (1 + 1e-5) + 1e-6).all()
    assert (back != x).any()


@pytest.mark.parametrize("group", [16, 64])
def test_an_element_is_off_by_half_a_step_at_most_symmetric(group: int) -> None:
    x = numbers(3, 32, 64)
    form = Symmetric8(group, FULL)
    codes, step = form.encode(x)
    back = form.decode(codes, step, torch.float32)
    assert ((back - x).abs() <= step.repeat_interleave(group, -1) / 2 * (1 + 1e-5)).all()


@pytest.mark.parametrize("metadata", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [PerToken, PerChannel])
def test_rounded_metadata_costs_its_rounding_and_no_more(kind, metadata) -> None:
    x = numbers(3, 32, 64)
    form = kind(4, 16, metadata)
    codes, meta = form.encode(x)
    back = form.decode(codes, meta, torch.float32)
    dim = -1 if kind is PerToken else -2
    step = meta[..., 0].float().repeat_interleave(16, dim)
    # the range's ends, least and least + 15 steps, are off by the rounding of the minimum and of 15 steps
    largest = x.unflatten(dim, (-1, 16)).abs().amax(dim if dim == -1 else -2, keepdim=True)
    largest = largest.expand(x.unflatten(dim, (-1, 16)).shape).flatten(dim - 1, dim)
    rounding = torch.finfo(metadata).eps / 2
    assert ((back - x).abs() <= step / 2 + rounding * (largest + 15 * step) + 1e-6).all()


def test_a_group_of_equal_numbers_comes_back_as_it_was() -> None:
    x = torch.full((1, 16, 32), 0.375)
    for form in (PerToken(2, 8), PerChannel(2, 8)):
        assert torch.equal(form.decode(*form.encode(x), torch.float32), x)
    zeros = torch.zeros(1, 16, 32)
    assert torch.equal(Symmetric8(8).decode(*Symmetric8(8).encode(zeros), torch.float32), zeros)


def test_fp8_keeps_three_bits_of_mantissa_and_saturates() -> None:
    x = numbers(4, 8, 32, outliers=False).abs() + 0.1
    scale = torch.full((4, 1, 1), 1 / 16)
    back = Float8().decode(*Float8().encode(x, scale), torch.float32, scale)
    assert ((back - x).abs() / x <= 2**-4).all()
    huge = torch.full((1, 1, 4), 1e6)
    one = torch.ones(1, 1, 1)
    assert torch.equal(Float8().decode(*Float8().encode(huge, one), torch.float32, one), torch.full((1, 1, 4), 448.0))


@pytest.mark.parametrize(
    ("settings", "head_dim", "block_size", "bits"),
    [
        ({"codec": "fp8"}, 64, 16, 8),
        ({"codec": "int8"}, 64, 16, 8 + 16 / 64),
        ({"codec": "int8"}, 128, 16, 8 + 16 / 128),
        ({"codec": "int4", "group": 128, "wide_keys": False}, 128, 16, 4 + 32 / 128),  # papers 4.8: 4.25
        ({"codec": "int4", "wide_keys": False}, 64, 16, 4 + 32 / 64),
        ({"codec": "int4"}, 64, 16, (5 + 4) / 2 + 32 / 64),
        ({"codec": "int4"}, 80, 16, (5 + 4) / 2 + 32 / 16),
        ({"codec": "int4", "group": 32}, 64, 16, (5 + 4) / 2 + 32 / 32),
        ({"codec": "int4", "metadata": "float32"}, 128, 16, (5 + 4) / 2 + 64 / 64),
        ({"codec": "kivi"}, 128, 32, 2 + 32 / 32),  # 4.8: 3.0
        ({"codec": "kivi", "group": 64, "residual": 128}, 64, 64, 2 + 32 / 64),  # 4.8: 2.5
        ({"codec": "kivi", "group": 128, "residual": 128}, 128, 128, 2 + 32 / 128),  # 4.8: 2.25
        ({"codec": "kivi", "key_bits": 4, "value_bits": 2}, 64, 32, 3 + 32 / 32),
    ],
)
def test_effective_bits_are_those_of_the_formula(settings, head_dim: int, block_size: int, bits: float) -> None:
    codec = make_codec(KVQuantization(**settings), head_dim, block_size)
    assert codec.bits(head_dim, block_size) == pytest.approx(bits)
    bytes_ = codec.bytes_per_block(3, 2, head_dim, block_size)
    assert bytes_ == pytest.approx(2 * 3 * 2 * head_dim * block_size * bits / 8)


@pytest.mark.parametrize("head_dim", [2, 6, 16, 64, 80, 128])
def test_a_rotation_is_its_own_inverse_and_spreads_an_outlier(head_dim: int) -> None:
    matrix = hadamard(head_dim)
    assert torch.allclose(matrix @ matrix, torch.eye(head_dim), atol=1e-6)
    assert torch.equal(matrix, matrix.T)
    spike = torch.zeros(head_dim)
    spike[1] = 1
    assert (spike @ matrix).abs().max() < 0.8


@pytest.mark.parametrize(
    ("settings", "head_dim", "field", "words"),
    [
        ({"codec": "int4", "group": 48}, 64, "kv_quantization.group", "does not divide this model's head size of 64"),
        ({"codec": "int8", "rotate": True}, 33, "kv_quantization.rotate", "even number of channels"),
        ({"codec": "kivi"}, 6, "kv_quantization.codec", "does not fill whole bytes"),
        ({"codec": "int4"}, 12, "kv_quantization.codec", "12 channels of 5 bits does not fill whole bytes"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_name(settings, head_dim: int, field: str, words: str) -> None:
    with pytest.raises(EngineError) as caught:
        make_codec(KVQuantization(**settings), head_dim, 16)
    assert caught.value.field == field
    assert words in caught.value.message


@pytest.mark.parametrize("settings", [{"codec": "int8"}, {"codec": "int4"}, {"codec": "int4", "group": 16}], ids=str)
def test_scores_and_outputs_stay_within_the_bounds(settings) -> None:
    """papers 4.8: |logit error| <= sum_c |q_c| s_c / 2 / sqrt(d); |output error| <= (e^(2 eps) - 1) max |v| + max s_v / 2."""
    codec = make_codec(KVQuantization(**settings, metadata="float32"), 64, 16)
    torch.manual_seed(0)
    q, k, v = torch.randn(20, 64).double(), numbers(48, 64), torch.randn(48, 64)
    k2, v2 = codec.round_trip(k, 0).double(), codec.round_trip(v, 1).double()
    steps = [form.encode(x)[1] for form, x in ((codec.keys, k), (codec.values, v))]
    key_step, value_step = (
        (meta if meta.dim() == 2 else meta[..., 0]).double().repeat_interleave(codec.keys.group, -1) for meta in steps
    )
    exact, packed = q @ k.double().T / 8, q @ k2.T / 8
    bound = (q.abs() @ (key_step / 2).T / 8) * (1 + 1e-5) + 1e-6
    assert ((exact - packed).abs() <= bound).all()
    eps = (exact - packed).abs().amax(-1, keepdim=True)
    assert ((exact.softmax(-1) - packed.softmax(-1)).abs().sum(-1, keepdim=True) <= (2 * eps).exp() - 1 + 1e-9).all()
    error = (exact.softmax(-1) @ v.double() - packed.softmax(-1) @ v2).abs()
    assert (error <= ((2 * eps).exp() - 1) * v.abs().max() + value_step.max() / 2 * (1 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_e4m3_code_is_read_as_pytorch_reads_it(dtype: torch.dtype) -> None:
    codes = torch.tensor(
        [code for code in range(256) if code & 0x7F != 0x7F], dtype=torch.uint8
    )  # those two are no numbers
    scale = torch.tensor([0.37, 1.0, 2.0**-9])[:, None]
    expected = codes.view(torch.float8_e4m3fn).to(dtype) * scale.to(dtype)
    assert torch.equal(Float8().decode(codes.expand(3, -1).contiguous(), None, dtype, scale), expected)


@pytest.mark.parametrize("tokens", [3, MANY_TOKENS + 1])
@pytest.mark.parametrize("width", [1, 2, 5, 12, 40, 64])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_tokens_are_copied_to_their_slots_whatever_they_are_moved_as(
    dtype: torch.dtype, width: int, tokens: int
) -> None:
    torch.manual_seed(0)
    slots = torch.randperm(2 * MANY_TOKENS)[:tokens]
    whole = torch.randint(0, 200, (tokens, 3, width + 3)).to(dtype)
    for x in (whole[..., :width].transpose(0, 1), whole[..., :width].contiguous().transpose(0, 1)):
        places = torch.zeros(3, 2 * MANY_TOKENS, width, dtype=dtype)
        expected = places.clone()
        expected[:, slots] = x
        copy_tokens(places, slots, x)
        assert torch.equal(places, expected)
