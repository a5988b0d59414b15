"""Packed caches under the custom kernels: what is stored is what the codec stores, bit for bit; what is read is what the reference reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.attention.reference import ReferenceAttention
from engine.batch import build_batch
from engine.config import EngineConfig, Sampling
from engine.config.techniques import KVQuantization
from engine.gpu.attention import TritonAttention
from engine.gpu.kernels.forms import KernelForm, Side
from engine.gpu.kernels.rope_pack import rope_pack
from engine.gpu.kernels.rope_store import rope_store
from engine.gpu.ragged import RaggedBuilder
from engine.kv.cache import KVCache
from engine.kv.codecs import make_codec
from engine.kv.codecs.rotation import hadamard
from engine.kv.quantized import QuantizedCache
from engine.model.rope import Rope
from engine.model.shape import RANDOM
from tests.engine.test_attention import make_sequences
from tests.engine.test_graphs import tokens_of
from tests.engine.test_triton_attention import MIXED, distance

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CODECS = {
    "int8": {"codec": "int8"},
    "int8 in groups": {"codec": "int8", "group": 8},
    "int4": {"codec": "int4"},
    "int4, a group is the head": {"codec": "int4", "group": 0},
    "int4, 4 bits a key": {"codec": "int4", "wide_keys": False},
    "int4 in groups": {"codec": "int4", "group": 8},
    "int4, bfloat16 steps": {"codec": "int4", "metadata": "bfloat16"},
    "int8, float32 steps": {"codec": "int8", "metadata": "float32"},
    "fp8": {"codec": "fp8"},
}
USUAL = ("int8", "int4", "fp8")  # with every head size; the others with some
HEADS = [(2, 2, 64), (4, 1, 80), (3, 1, 96), (16, 1, 128), (2, 1, 256), (14, 2, 64), (9, 3, 64)]
CASES = [(name, heads) for name in CODECS for heads in (HEADS if name in USUAL else HEADS[:2])]
SIZE = 16


def packed_cache(name: str, heads: tuple[int, int, int], blocks: int, dtype: torch.dtype, *, rotate: bool = False):
    _, kv_heads, width = heads
    asked = {"rotate": rotate} | CODECS[name]
    if asked.get("group") == 0:
        asked["group"] = width
    codec = make_codec(KVQuantization(**asked), width, SIZE)
    cache = QuantizedCache(codec, 2, kv_heads, width, blocks, SIZE, dtype, DEVICE)
    if codec.fixed_scales:
        cache.set_scales(torch.rand(2, 2, kv_heads) / 100 + 0.005)
    return cache


def projected(heads: tuple[int, int, int], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Rows of queries, keys and values with an outlier channel, and a row that is all zeros; positions, slots, the rotation's table."""
    num_heads, kv_heads, width = heads
    qkv = torch.randn(5, num_heads + 2 * kv_heads, width)
    qkv[..., 5] *= 9
    qkv[2] = 0
    shape = dataclasses.replace(RANDOM["tiny"], heads=num_heads, kv_heads=kv_heads, head_dim=width)
    positions = torch.tensor([0, 7, 63, 20, 1], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([3, 40, 17, -1, 0], dtype=torch.int32, device=DEVICE)
    return qkv.flatten(1).to(DEVICE, dtype), positions, slots, Rope(shape, 64, DEVICE, dtype).table


def sides(cache: QuantizedCache, layer: int = 0) -> tuple[Side, Side]:
    return Side.of(cache.packed_keys[layer]), Side.of(cache.packed_values[layer])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "heads"), CASES, ids=str)
@pytest.mark.sampled(5)
def test_the_kernel_stores_what_the_codec_stores_bit_for_bit(name: str, heads, dtype: torch.dtype):
    torch.manual_seed(sum(heads))
    num_heads, kv_heads, width = heads
    qkv, positions, slots, table = projected(heads, dtype)
    plain = KVCache(1, kv_heads, width, 4, SIZE, dtype, DEVICE)
    q = rope_store(qkv, positions, slots, table, plain.key_blocks[0], plain.value_blocks[0], num_heads)
    got = packed_cache(name, heads, 4, dtype)
    form = KernelForm.of(got.codec, width)
    q_packed = rope_pack(qkv, positions, slots, table, *sides(got), form, num_heads)
    assert torch.equal(q_packed, q)

    stored = slots[slots >= 0].long()
    for rows, whole in ((got.packed_keys[0], plain.key_slots[0]), (got.packed_values[0], plain.value_slots[0])):
        scale = None if rows.scale is None else rows.scale.cpu()[:, None, None]
        codes, meta = rows.form.encode(whole.index_select(1, stored).cpu(), scale)
        assert torch.equal(rows.codes.flatten(1, 2).index_select(1, stored).cpu(), codes)
        rest = torch.ones(4 * SIZE, dtype=torch.bool)
        rest[stored] = False
        assert not rows.codes.flatten(1, 2)[:, rest].any()
        if meta is not None:
            held = rows.meta.flatten(1, 2)
            assert torch.equal(held.index_select(1, stored).cpu(), meta)
            assert not held[:, rest].any()


@pytest.mark.parametrize("heads", [(9, 3, 64), (4, 1, 80), (3, 1, 96), (2, 1, 256)], ids=str)
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_centring_and_mixing_are_those_of_the_plain_path(name: str, heads):
    torch.manual_seed(1)
    num_heads, kv_heads, width = heads
    qkv, positions, slots, table = projected(heads, torch.float32)
    plain = KVCache(1, kv_heads, width, 4, SIZE, torch.float32, DEVICE)
    q = rope_store(qkv, positions, slots, table, plain.key_blocks[0], plain.value_blocks[0], num_heads)
    got = packed_cache(name, heads, 4, torch.float32)
    centre, matrix = torch.randn(kv_heads, width, device=DEVICE), hadamard(width).to(DEVICE)
    form = KernelForm.of(got.codec, width)
    mixed = rope_pack(
        qkv, positions, slots, table, *sides(got), form, num_heads, centre=centre, matrix=matrix
    )  # fmt: skip
    assert distance(mixed, q @ matrix) < 1e-6
    stored = slots[slots >= 0].long()
    keys = (plain.key_slots[0].index_select(1, stored) - centre[:, None]) @ matrix
    values = plain.value_slots[0].index_select(1, stored) @ matrix
    for rows, want in ((got.packed_keys[0], keys), (got.packed_values[0], values)):
        codes, _ = rows.form.encode(want.cpu())
        held = rows.codes.flatten(1, 2).index_select(1, stored).cpu()
        assert (held != codes).float().mean() < 0.01  # sums in another order: a number on the border of two codes


@pytest.mark.parametrize(("name", "heads"), CASES, ids=str)
@pytest.mark.sampled(4)
def test_attention_reads_what_the_reference_reads(name: str, heads):
    torch.manual_seed(sum(heads))
    assert packed_distance(name, heads, MIXED, torch.float32) < 1e-4


@pytest.mark.parametrize("name", USUAL)
def test_sixteen_bit_numbers_differ_by_their_rounding(name: str):
    torch.manual_seed(3)
    assert packed_distance(name, (6, 2, 64), MIXED, torch.bfloat16) < 1.5e-2


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.rare) if name == "fp8" else name for name in USUAL]
)
@pytest.mark.parametrize("batch", [[(1, 700)], [(90, 0)], [(21, 100)], [(5, 40), (5, 0), (3, 17)]], ids=str)
@pytest.mark.sampled(3)
def test_every_make_of_a_batch_reads_what_the_reference_reads(name: str, batch):
    torch.manual_seed(4)
    assert packed_distance(name, (4, 2, 64), batch, torch.float32) < 1e-4


def packed_distance(name: str, heads, batch: list[tuple[int, int]], dtype: torch.dtype) -> float:
    """Error of the kernels on a cache whose unused places would show; nothing but the reading differs."""
    num_heads, kv_heads, width = heads
    plan, blocks = make_sequences(batch, SIZE)
    cache = packed_cache(name, heads, blocks, dtype)
    for layer in range(2):
        every = torch.arange(blocks * SIZE, device=DEVICE)
        cache.store(layer, every, *(torch.randn(blocks * SIZE, kv_heads, width, device=DEVICE).to(dtype) for _ in "kv"))
    tokens = sum(n for n, _ in batch)
    q, k, v = (torch.randn(tokens, count, width).to(DEVICE, dtype) for count in (num_heads, kv_heads, kv_heads))
    reference = ReferenceAttention(cache, *heads)
    reference.begin(build_batch(plan, SIZE, DEVICE).attention)
    want = reference.forward(1, q, k, v)
    used = torch.zeros(blocks * SIZE, dtype=torch.bool, device=DEVICE)
    for part in plan.slices:
        for place in range(part.context_len + part.tokens):
            used[part.request.block_table[place // SIZE] * SIZE + place % SIZE] = True
    for rows in (cache.packed_keys[1], cache.packed_values[1]):
        rows.codes.flatten(1, 2)[:, ~used] = 127
        if rows.meta is not None:
            rows.meta.flatten(1, 2)[:, ~used] = float("nan")
    kernels = TritonAttention(cache, *heads)
    kernels.begin(RaggedBuilder(SIZE, DEVICE).build(plan).attention)
    return distance(kernels.forward(1, q, k, v), want)


@pytest.mark.parametrize("codec", USUAL)
@pytest.mark.sampled(3)
def test_a_packed_run_by_the_kernels_has_the_tokens_of_the_plain_path(codec: str, telling, tmp_path: Path):
    common = {
        "model": "random:tiny",
        "device": str(DEVICE),
        "dtype": "float32",
        "block_size": 16,
        "kv_blocks": 64,
        "kv_quantization": KVQuantization(codec=codec),
        "sampling": Sampling(ignore_eos=True),
    }
    plain = tokens_of(EngineConfig(**common, attention_backend="gathered"), tmp_path / "plain")
    kernels = EngineConfig(**common, attention_backend="triton", cuda_graphs=False, overlap="off")
    assert tokens_of(kernels, tmp_path / "kernels") == plain
