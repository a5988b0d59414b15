"""Attention by native kernels, behind the contract of every backend."""

from __future__ import annotations

import torch

from engine.attention.base import AttentionBackend
from engine.attention.groups import GroupRule
from engine.attention.packed import conditioned
from engine.batch import AttentionBatch
from engine.kv.cache import KVCache
from engine.kv.codecs import Codec
from engine.native.attend import TILE_FIELDS, AttentionSpec, attend
from engine.native.compile import compiled, lanes_for, widest
from engine.native.maths import NUMBER_FORMATS
from engine.native.pack import PACKED, PackSpec, pack_rows
from engine.native.stored import Stored, addresses, stored_as, unread_form, widths
from engine.native.team import most_threads

WORTH_A_THREAD = 1 << 19  # products; less is done before another thread has begun


class NativeAttention(AttentionBackend):
    """All rows of a batch in one call per layer: single tokens, verifications and chunks alike, each by its own length.

    Keys and values are stored by the kernel that turns them (``engine.native.decoder``), by one that packs them, or by
    PyTorch.
    """

    def __init__(self, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__(cache, num_heads, kv_heads, head_dim)
        lanes = _lanes(cache.codec, head_dim)
        kind = number_format(cache.dtype)
        if cache.codec is None:
            keys = values = Stored(kind, head_dim, lanes)
        else:
            keys, values = (stored_as(form, head_dim, lanes) for form in (cache.codec.keys, cache.codec.values))
        registers = 16 if widest() == 8 else 32
        self._spec = AttentionSpec(
            kind, num_heads, kv_heads, head_dim, cache.block_size, keys, values, lanes, registers, cache.contiguous
        )
        self._kernel = compiled(attend, self._spec)
        self._pack = None  # where PyTorch stores keys and values
        if keys.kind in PACKED and values.kind in PACKED:
            self._pack = compiled(pack_rows, PackSpec(kind, kv_heads, keys, values))
        self._slots_a_head = cache.num_blocks * cache.block_size
        self._addresses: dict[int, tuple[int, int, int, int]] = {}
        self.slots = torch.empty(0, dtype=torch.int64)
        self._threads = 1

    def begin(self, batch: AttentionBatch) -> None:
        self._batch = batch  # its block tables are read where they lie
        self.slots = batch.slots
        most = self._spec.tokens
        tiles = [
            (row, 1, kv_len, lies)
            for row, (kv_len, lies) in enumerate(zip(batch.single_kv_lens, self._singles(batch), strict=True))
        ]
        for chunk in batch.chunks:
            first = chunk.kv_len - chunk.length
            lies = int(chunk.blocks[0]) * self.cache.block_size if self.cache.contiguous else chunk.blocks.data_ptr()
            tiles += [
                (chunk.start + done, min(most, chunk.length - done), first + done + 1, lies)
                for done in range(0, chunk.length, most)
            ]
        tiles.sort(key=lambda tile: tile[1] * tile[2], reverse=True)  # so that threads end at about the same time
        self._tiles = torch.tensor(tiles, dtype=torch.int64).view(-1, TILE_FIELDS)
        products = sum(tile[1] * tile[2] for tile in tiles) * self.num_heads * self.head_dim * 2
        self._threads = max(1, min(most_threads(), products // WORTH_A_THREAD, len(tiles) * self.kv_heads))

    def _singles(self, batch: AttentionBatch) -> list[int]:
        """Where each single token's sequence lies: its first slot in a contiguous layout, else the address of its block
        table."""
        if self.cache.contiguous:
            return [table[0] * self.cache.block_size for table in batch.single_tables]
        tables = batch.single_blocks
        width = tables.stride(0) * tables.element_size() if batch.num_singles else 0
        return [tables.data_ptr() + row * width for row in range(batch.num_singles)]

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if self._pack is None:
            self.cache.store(layer, self.slots, k, v)
        else:
            k, v = (x if x.stride()[1:] == (self.head_dim, 1) else x.contiguous() for x in (k, v))
            self._pack(
                1,
                len(k),
                self._slots_a_head,
                k.stride(0),
                v.stride(0),
                self.slots.data_ptr(),
                k.data_ptr(),
                v.data_ptr(),
                *self._at(layer),
            )
        return self.attend(layer, q)

    def attend(self, layer: int, q: torch.Tensor) -> torch.Tensor:
        """As ``forward``, of keys and values that are in the cache."""
        q = q.contiguous()
        out = torch.empty(len(q), self.num_heads * self.head_dim, dtype=q.dtype)
        self._kernel(
            self._threads,
            len(self._tiles) * self.kv_heads,
            self._slots_a_head,
            self._tiles.data_ptr(),
            q.data_ptr(),
            out.data_ptr(),
            *self._at(layer),
        )
        return out

    def _at(self, layer: int) -> tuple[int, int, int, int]:
        if layer not in self._addresses:
            self._addresses[layer] = addresses(self.cache, layer)
        return self._addresses[layer]


def number_format(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def unread_model(dtype: torch.dtype, *widths: int) -> str | None:
    """Why kernels do not serve a model of this format, whose heads, half heads and layers have these widths; None where
    they do."""
    if number_format(dtype) not in NUMBER_FORMATS:
        return f"they do not compute with {number_format(dtype)}"
    if not lanes_for(*widths):
        return f"one of its widths ({', '.join(map(str, widths))}) is no multiple of 4"
    return None


def unread_codec(codec: Codec, head_dim: int) -> str | None:
    """Why kernels do not read a codec's forms with heads of this size; None where they do."""
    for form in (codec.keys, codec.values):
        if (problem := unread_form(form)) is not None:
            return problem
    if not _lanes(codec, head_dim):
        return "a group of its channels, or half a head, is no multiple of 4"
    return None


def _lanes(codec: Codec | None, head_dim: int) -> int:
    if codec is None:
        return lanes_for(head_dim)
    return lanes_for(head_dim, *(width for form in (codec.keys, codec.values) for width in widths(form, head_dim)))


def make_attention(
    cache: KVCache,
    num_heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    exact_prefill: bool = False,
    rule: GroupRule | None = None,
) -> AttentionBackend:
    """Native attention over a cache, with what its codec asks to be done around it; as ``MakesAttention`` says.

    What it does not read is refused before (``engine.start.attention``); full precision is exact anyway.
    """
    assert rule is None, "native kernels read every row by itself"
    assert cache.codec is None or not exact_prefill, "native kernels read what is stored"
    return conditioned(NativeAttention(cache, num_heads, kv_heads, head_dim))
