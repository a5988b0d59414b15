"""Codecs with exact windows, and prompts that read themselves as they were, under the custom kernels: what is packed is what the plain
path packs, bit for bit; what is kept exact is kept; what is read is what the plain path reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from engine.attention.packed import check_reads, make_attention
from engine.attention.triton import TritonAttention
from engine.batch import build_batch
from engine.config import (
    ChunkedPrefill,
    EngineConfig,
    KVQuantization,
    PrefixSharing,
    RequestSpec,
    Sampling,
    Speculation,
)
from engine.kv.codecs import make_codec
from engine.kv.pool import BlockPool
from engine.kv.quantized import QuantizedCache
from engine.ragged import RaggedBuilder
from engine.request import Request
from engine.scheduler import Plan, Slice
from tests.engine.test_triton_attention import distance

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KIVI = {"codec": "kivi", "residual": 16}
CODECS = {
    "2 bits": KIVI,
    "4 and 2 bits, small groups": KIVI | {"key_bits": 4, "group": 8},
    "8 and 4 bits, float32 steps": KIVI | {"key_bits": 8, "value_bits": 4, "metadata": "float32"},
    "2 and 8 bits, bfloat16 steps": KIVI | {"value_bits": 8, "metadata": "bfloat16"},
    "a window is two blocks": KIVI | {"residual": 32, "group": 16},
    "the wrong axes": KIVI | {"key_axis": "token", "value_axis": "channel"},
    "both per channel": KIVI | {"value_axis": "channel", "group": 4},
    "both per token": KIVI | {"key_axis": "token", "key_bits": 4},
    "nothing exact": {"codec": "kivi", "residual": 0, "key_axis": "token", "value_bits": 4},
}
HEADS = [(2, 2, 64), (4, 1, 80), (3, 1, 96), (16, 1, 128), (2, 1, 256), (9, 3, 64)]
# new tokens of each of three sequences, step by step: prompts whole and in chunks, decodes, guesses to verify, across ends of windows
STEPS = [
    [(38, True), (9, True), None],
    [(1, False), (14, True), (5, True)],
    [(4, False), (1, False), (27, True)],
    [(4, False), (4, False), (1, False)],
]
GUESSES = 3  # that a step may have to take back


@dataclass
class Sides:
    """The same numbers through the plain path and through the kernels, each on its own cache."""

    asked: KVQuantization
    heads: tuple[int, int, int]
    dtype: torch.dtype = torch.float32
    size: int = 16

    def __post_init__(self) -> None:
        _, kv_heads, width = self.heads
        self.codec = make_codec(self.asked, width, self.size)
        dimensions = (2, kv_heads, width, 15, self.size, self.dtype, DEVICE)
        self.caches = [QuantizedCache(self.codec, *dimensions, tails=3, spare=GUESSES) for _ in range(2)]
        for cache in self.caches:
            if self.codec.fixed_scales:
                cache.set_scales(torch.full((2, 2, kv_heads), 0.02))
        exact = self.asked.prefill == "exact"
        self.plain = make_attention("gathered", self.caches[0], *self.heads, exact_prefill=exact)
        self.kernels = make_attention("triton", self.caches[1], *self.heads, exact_prefill=exact)
        assert isinstance(self.kernels, TritonAttention)
        self.builder = RaggedBuilder(
            self.size, DEVICE, tail_tokens=self.kernels.tail_tokens, tells_prefills=self.kernels.exact_prefill
        )
        pool = BlockPool(15, self.size)
        self.requests = []
        for index in range(3):
            request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * 60, Sampling(), 1)
            request.block_table = pool.allocate(pool.blocks_for(60), index, 0)[::-1]
            request.tail = 2 - index
            self.requests.append(request)
        self.done = [0] * 3

    def step(self, parts: list[tuple[int, bool] | None]) -> float:
        """One step through both; the distance of what they return."""
        num_heads, kv_heads, width = self.heads
        slices = [
            Slice(request, part[0], done, part[1])
            for request, part, done in zip(self.requests, parts, self.done, strict=True)
            if part
        ]
        tokens = sum(s.tokens for s in slices)
        q, k, v = (
            torch.randn(tokens, count, width).to(DEVICE, self.dtype) for count in (num_heads, kv_heads, kv_heads)
        )
        k[..., 5] *= 9
        self.poison()
        self.plain.begin(build_batch(Plan(slices), self.size, DEVICE).attention)
        self.kernels.begin(self.builder.build(Plan(slices)).attention)
        apart = distance(self.kernels.forward(1, q, k, v), self.plain.forward(1, q, k, v))
        for index, part in enumerate(parts):
            self.done[index] += part[0] if part else 0
        return apart

    def complete(self) -> torch.Tensor:
        """Slots of what is packed by now."""
        slots = []
        for request, done in zip(self.requests, self.done, strict=True):
            for place in range(done // max(1, self.codec.window) * max(1, self.codec.window)):
                slots.append(request.block_table[place // self.size] * self.size + place % self.size)
        return torch.tensor(slots, dtype=torch.int64, device=DEVICE)

    def kept(self) -> torch.Tensor:
        """Places in the tails of what is not packed yet."""
        size, places = self.caches[0].tail_tokens, []
        for request, done in zip(self.requests, self.done, strict=True):
            for place in range(done // self.codec.window * self.codec.window, done):
                places.append(request.tail * size + place % size)
        return torch.tensor(places, dtype=torch.int64, device=DEVICE)

    def poison(self) -> None:
        """What nobody may read would show."""
        cache = self.caches[1]
        unused = torch.ones(15 * self.size, dtype=torch.bool, device=DEVICE)
        unused[self.complete()] = False
        for rows in (cache.packed_keys[1], cache.packed_values[1]):
            rows.codes.flatten(1, 2)[:, unused] = 255
            span = rows.form.span
            rows._meta_slots[:, unused.view(-1, span).all(1)] = float("nan")
        if self.codec.window:
            unused = torch.ones(cache.tail_keys[1].shape[1], dtype=torch.bool, device=DEVICE)
            unused[self.kept()] = False
            for tail in (cache.tail_keys[1], cache.tail_values[1]):
                tail[:, unused] = float("nan")

    def check_caches(self) -> None:
        """What is packed, and what is kept exact, is the same on both sides to the bit."""
        for name in ("packed_keys", "packed_values"):
            want, got = (getattr(cache, name)[1] for cache in self.caches)
            slots = self.complete()
            assert len(slots) > 0
            codes = [rows.codes.flatten(1, 2).index_select(1, slots) for rows in (want, got)]
            assert torch.equal(*codes)
            spans = slots[:: want.form.span] // want.form.span
            assert torch.equal(*(rows._meta_slots.index_select(1, spans) for rows in (want, got)))
        if self.codec.window:
            for name in ("tail_keys", "tail_values"):
                assert torch.equal(*(getattr(cache, name)[1].index_select(1, self.kept()) for cache in self.caches))


@pytest.mark.parametrize(
    ("name", "heads", "dtype"),
    [
        *[("2 bits", heads, torch.float32) for heads in HEADS],
        *[(name, HEADS[i % 2], torch.float32) for i, name in enumerate(CODECS) if name != "2 bits"],
        ("2 bits", HEADS[0], torch.bfloat16),
        ("2 and 8 bits, bfloat16 steps", HEADS[0], torch.bfloat16),
    ],
    ids=str,
)
def test_windows_are_packed_kept_and_read_as_on_the_plain_path(name: str, heads, dtype: torch.dtype):
    torch.manual_seed(sum(heads))
    sides = Sides(KVQuantization(**CODECS[name]), heads, dtype)
    for parts in STEPS:
        assert sides.step(parts) < (1e-5 if dtype == torch.float32 else 1.5e-2)
        sides.check_caches()
