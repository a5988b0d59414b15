"""Native attention gives what the plain path gives, over any batch, block size and form of cache, on any number of
threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.attention import packed
from engine.backends import make_attention
from engine.batch import build_batch
from engine.config.techniques import KVQuantization
from engine.kv.cache import KVCache
from engine.kv.codecs import make_codec
from engine.kv.quantized import QuantizedCache
from engine.native.attention import NativeAttention, unread_codec
from tests.engine.test_attention import make_sequences
from tests.examples import examples

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CLOSE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
CODECS = {
    "int8": {"codec": "int8"},
    "int8 in groups": {"codec": "int8", "group": 8},
    "int4": {"codec": "int4"},
    "int4, 4 bits a key": {"codec": "int4", "wide_keys": False, "group": 16},
    "int4, float32 steps": {"codec": "int4", "metadata": "float32"},
    "int8, bfloat16 steps": {"codec": "int8", "metadata": "bfloat16"},
    "fp8": {"codec": "fp8"},
    "kivi, nothing exact": {"codec": "kivi", "residual": 0, "key_axis": "token", "key_bits": 4, "value_bits": 4},
}
BATCH = [(1, 33), (12, 0), (1, 2), (5, 30), (1, 15), (16, 16), (70, 65), (1, 200), (1, 0)]


def both(
    batch: list[tuple[int, int]],
    heads: tuple[int, int, int],
    block_size: int,
    dtype: torch.dtype,
    asked: dict | None = None,
    contiguous: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the plain path and the native one give for a batch over two caches of the same content. Whatever a sequence does not
    hold is no number at full precision: it must not be read. ``contiguous``: every block table is first, first + 1, ..."""
    num_heads, kv_heads, width = heads
    torch.manual_seed(1)
    plan, num_blocks = make_sequences(batch, block_size)
    if contiguous:
        first = num_blocks
        for part in plan.slices:
            first -= len(part.request.block_table)
            part.request.block_table = list(range(first, first + len(part.request.block_table)))
    inputs = build_batch(plan, block_size, CPU)
    codec = None if asked is None else make_codec(KVQuantization(**{"rotate": False} | asked), width, block_size)
    caches: list[KVCache] = []
    for _ in range(2):
        dimensions = (2, kv_heads, width, num_blocks, block_size, dtype, CPU)
        cache = KVCache(*dimensions) if codec is None else QuantizedCache(codec, *dimensions)
        if codec is None:
            cache.data.fill_(float("nan"))
        elif codec.fixed_scales:
            assert isinstance(cache, QuantizedCache)
            cache.set_scales(torch.tensor([0.02, 0.03]).view(1, 2, 1).expand(2, 2, kv_heads).contiguous())
        cache.contiguous = contiguous
        caches.append(cache)
    for part in plan.slices:
        table = part.request.block_table
        slots = torch.tensor([table[p // block_size] * block_size + p % block_size for p in range(part.context_len)])
        k, v = torch.randn(2, part.context_len, kv_heads, width).to(dtype)
        for cache in caches:
            cache.store(1, slots.long(), k, v)
    tokens = len(inputs.token_ids)
    q = (torch.randn(tokens, num_heads, width) * 2).to(dtype)
    k, v = torch.randn(2, tokens, kv_heads, width).to(dtype)
    results = []
    for name, cache in zip(("reference", "native"), caches, strict=True):
        attention = make_attention(name, cache, num_heads, kv_heads, width)
        attention.begin(inputs.attention)
        results.append(attention.forward(1, q.clone(), k.clone(), v.clone()).float())
    return results[0], results[1]


def assert_close(plain: torch.Tensor, native: torch.Tensor, dtype: torch.dtype) -> None:
    assert native.isfinite().all()
    assert (plain - native).abs().max() <= CLOSE[dtype] * max(1.0, float(plain.abs().max()))


@given(
    batch=st.lists(
        st.tuples(st.integers(1, 3) | st.integers(1, 60), st.integers(0, 8) | st.integers(0, 150)),
        min_size=1,
        max_size=9,
    ),
    heads=st.sampled_from([(9, 3, 64), (4, 4, 8), (14, 2, 16), (5, 1, 80), (8, 2, 32), (6, 1, 128)]),
    block_size=st.sampled_from([1, 2, 4, 6, 16, 32]),
    dtype=st.sampled_from(list(CLOSE)),
    threads=st.integers(1, 3),
    contiguous=st.booleans(),
)
@settings(max_examples=examples(120), deadline=None)
def test_it_is_the_reference_over_any_batch(
    batch, heads, block_size: int, dtype: torch.dtype, threads: int, contiguous: bool
) -> None:
    torch.set_num_threads(threads)
    assert_close(*both(batch, heads, block_size, dtype, contiguous=contiguous), dtype)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("heads", [(9, 3, 64), (4, 4, 16), (8, 1, 80)], ids=str)
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.sampled(5)
def test_packed_caches_are_read_as_the_codec_unpacks_them(name: str, heads, dtype: torch.dtype) -> None:
    for contiguous in (False, True):
        assert_close(*both(BATCH, heads, 16, dtype, CODECS[name], contiguous), dtype)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("width", [16, 64, 80, 128])
@pytest.mark.parametrize("name", [name for name in CODECS if name != "fp8"])
@pytest.mark.sampled(3)
def test_what_is_packed_is_what_the_codec_packs(name: str, width: int, dtype: torch.dtype) -> None:
    """To the bit, whatever the numbers, also where a group is of one number, of zeros or of very large ones."""
    codec = make_codec(KVQuantization(**{"rotate": False} | CODECS[name]), width, 16)
    caches = [QuantizedCache(codec, 1, 2, width, 4, 16, dtype, CPU) for _ in range(2)]
    torch.manual_seed(width)
    k, v = (torch.randn(2, 40, 2, width) * torch.rand(2, 40, 2, 1) * 10).to(dtype)
    k[0], v[1], k[2, 0], v[3] = 0.0, 0.75, 3e4, v[3] * 1e-6
    slots = torch.randperm(64)[:40]
    caches[0].store(0, slots, k, v)
    attention = NativeAttention(caches[1], 4, 2, width)
    attention.begin(build_batch(make_sequences([(1, 5)], 16)[0], 16, CPU).attention)
    attention.slots = slots
    attention.forward(0, torch.zeros(1, 4, width, dtype=dtype), k, v)
    for mine, theirs in zip(
        caches[1].packed_keys + caches[1].packed_values, caches[0].packed_keys + caches[0].packed_values, strict=True
    ):
        assert mine.meta is not None
        assert theirs.meta is not None
        assert torch.equal(mine.meta, theirs.meta)
        assert torch.equal(mine.codes, theirs.codes)


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: every item is computed by one thread, whichever it is."""
    monkeypatch.setattr("engine.native.attention.WORTH_A_THREAD", 1)
    results = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        results.append(both(BATCH, (9, 3, 64), 16, torch.float32)[1])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_step_of_any_batch_is_one_call_per_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    attention = NativeAttention(KVCache(1, 3, 64, 60, 16, torch.float32, CPU), 9, 3, 64)
    monkeypatch.setattr(attention, "_kernel", lambda *given: calls.append(given))
    plan, _ = make_sequences(BATCH, 16)
    attention.begin(build_batch(plan, 16, CPU).attention)
    attention.attend(0, torch.zeros(108, 9, 64))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"codec": "kivi", "residual": 16, "key_axis": "channel"}, "steps per channel"),
        ({"codec": "kivi", "residual": 0, "key_axis": "token", "key_bits": 2}, "2 bits"),
        ({"codec": "int8", "group": 2}, "multiple of 4"),
    ],
)
def test_a_form_that_kernels_do_not_read_is_named(asked: dict, words: str) -> None:
    problem = unread_codec(make_codec(KVQuantization(**{"rotate": False} | asked), 64, 16), 64)
    assert problem is not None
    assert words in problem


def test_centred_and_mixed_caches_are_served_through_the_same_wrapper() -> None:
    codec = make_codec(KVQuantization(codec="int8", rotate=True), 64, 16)
    cache = QuantizedCache(codec, 1, 3, 64, 8, 16, torch.float32, CPU)
    attention = make_attention("native", cache, 9, 3, 64)
    assert isinstance(attention, packed.Conditioned)
    assert isinstance(attention.inner, NativeAttention)


FORKED = """
import os, torch
from engine.native import attention
from tests.engine.test_native_attention import BATCH, both
attention.WORTH_A_THREAD = 1
torch.set_num_threads(1)
want = both(BATCH, (9, 3, 64), 16, torch.float32)[1]
if (pid := os.fork()) == 0:
    torch.set_num_threads(2)
    plain, native = both(BATCH, (9, 3, 64), 16, torch.float32)
    torch.mm(torch.ones(600, 600), torch.ones(600, 600))
    os._exit(0 if torch.equal(native, want) else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_forked_process_runs_kernels_on_threads_of_its_own() -> None:
    """As workers do (``engine.fork_server``): compiled and tried in one thread, forked, run in two."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FORKED], env=environment, cwd=ROOT, timeout=120)
    assert done.returncode == 0
