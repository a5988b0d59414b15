"""Pools of more numbers than 32 bits can count: the kernels reach every one, where a product of 32 bits would wrap.

On a CPU the pool is address space that is never touched but for a few blocks at its ends.
"""

from __future__ import annotations

import dataclasses
import math
import mmap

import pytest
import torch

from engine.attention.groups import GroupRule
from engine.backends import make_attention
from engine.config import RequestSpec, Sampling
from engine.config.techniques import KVQuantization
from engine.gpu.kernels.forms import KernelForm
from engine.gpu.kernels.rope_pack import rope_pack
from engine.gpu.kernels.rope_store import rope_store
from engine.gpu.ragged import RaggedBuilder
from engine.kv.cache import KVCache
from engine.kv.codecs import make_codec
from engine.kv.quantized import QuantizedCache
from engine.model.rope import Rope
from engine.model.shape import RANDOM
from engine.request import Request
from engine.scheduling.plan import Plan, Slice

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEADS, KV_HEADS, WIDTH, SIZE = 4, 2, 64, 16
LARGEST = 2**31  # numbers of one head from which on 32 bits do not count them
FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which Python names from 3.13 on
SHARED = 2  # blocks that all sequences begin with
CODECS: dict[str, dict | None] = {
    "none": None,
    "int8": {"codec": "int8", "rotate": False},
    "int4": {"codec": "int4", "group": 8, "rotate": False},
    "fp8": {"codec": "fp8"},
}


def untouched(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that take no memory before they are written."""
    size = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size, flags=FLAGS), dtype=dtype).view(shape)


def make_cache(name: str, blocks: int) -> KVCache:
    dimensions = (1, KV_HEADS, WIDTH, blocks, SIZE, torch.bfloat16, DEVICE)
    asked = CODECS[name]
    if asked is None:
        return KVCache(*dimensions)
    cache = QuantizedCache(make_codec(KVQuantization(**asked), WIDTH, SIZE), *dimensions)
    if cache.codec.fixed_scales:
        cache.set_scales(torch.full((1, 2, KV_HEADS), 0.01))
    return cache


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU: a cache's zeros are untouched memory, and the interpreter does not copy its arguments onto themselves."""
    zeros = torch.zeros

    def lazy(*size, **options) -> torch.Tensor:
        shape = size if isinstance(size[0], int) else size[0]
        return untouched(tuple(shape), options["dtype"]) if math.prod(shape) > 1 << 24 else zeros(*size, **options)

    if DEVICE.type == "cpu":
        monkeypatch.setattr(torch, "zeros", lazy)
        monkeypatch.setattr("triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *arguments: None)


def plan_of(tables: list[list[int]]) -> Plan:
    """Two decodes behind one prefix, one chunk."""
    slices = []
    for index, (table, tokens) in enumerate(zip(tables, (1, 1, 5), strict=True)):
        length = len(table) * SIZE - 3 - index
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * length, Sampling(), 1)
        request.block_table = table
        slices.append(Slice(request, tokens, length - tokens, tokens > 1))
    return Plan(slices)


def store(cache: KVCache, slots: torch.Tensor) -> torch.Tensor:
    """Random rows through the kernel that stores into such a cache; the queries."""
    torch.manual_seed(3)
    shape = dataclasses.replace(RANDOM["tiny"], heads=HEADS, kv_heads=KV_HEADS, head_dim=WIDTH)
    table = Rope(shape, 4096, torch.device("cpu"), torch.bfloat16).table.to(DEVICE)
    qkv = torch.randn(len(slots), (HEADS + 2 * KV_HEADS) * WIDTH).to(DEVICE, torch.bfloat16)
    where = (qkv, torch.arange(len(slots), dtype=torch.int32, device=DEVICE), slots, table)
    if not isinstance(cache, QuantizedCache):
        return rope_store(*where, cache.key_blocks[0], cache.value_blocks[0], HEADS)
    attention = make_attention("triton", cache, HEADS, KV_HEADS, WIDTH)
    return rope_pack(*where, *attention.sides(0), KernelForm.of(cache.codec, WIDTH), HEADS)


def outputs(cache: KVCache, tables: list[list[int]]) -> torch.Tensor:
    """Attention over a plan whose sequences' keys and values have been stored; every kernel that reads takes part."""
    places = [block * SIZE + at for block in sorted({b for table in tables for b in table}) for at in range(SIZE)]
    store(cache, torch.tensor(places, dtype=torch.int32, device=DEVICE))
    attention = make_attention("triton", cache, HEADS, KV_HEADS, WIDTH, rule=GroupRule())
    plan = plan_of(tables)
    batch = RaggedBuilder(SIZE, DEVICE, attention.passes).build(plan).attention
    assert batch.shared is not None
    attention.begin(batch)
    torch.manual_seed(5)
    return attention.attend(0, torch.randn(plan.num_tokens, HEADS, WIDTH).to(DEVICE, torch.bfloat16))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.rare) if name == "int4" else name for name in CODECS]
)
@pytest.mark.sampled(3)
def test_the_last_blocks_of_a_large_pool_read_as_the_first_of_a_small_one(name: str, lazily: None):
    codec = make_cache(name, 1).codec
    per_slot = WIDTH if codec is None else codec.values.code_width(WIDTH)  # values are never wider than keys
    blocks = LARGEST // (per_slot * SIZE) + 64
    needed = blocks * (
        SIZE * WIDTH * KV_HEADS * 4 if codec is None else codec.bytes_per_block(1, KV_HEADS, WIDTH, SIZE)
    )
    if DEVICE.type == "cuda" and torch.cuda.mem_get_info()[0] < needed + (2 << 30):
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory")
    common = list(range(SHARED))
    tables = [[*common, 2], [*common, 3], [4]]
    first = outputs(make_cache(name, 5), tables)
    behind = blocks - 5
    large = make_cache(name, blocks)
    last = outputs(large, [[block + behind for block in table] for table in tables])
    assert (behind * SIZE * per_slot) > LARGEST
    assert first.isfinite().all()
    assert first.abs().sum() > 0
    assert torch.equal(first, last)
