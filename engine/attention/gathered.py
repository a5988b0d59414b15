"""The fast path without custom kernels: single-token rows in a few batched passes, chunks one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.attention.base import AttentionBackend
from engine.batch import AttentionBatch
from engine.kv.cache import Rows

PADDING = 2  # rows share a pass while the longest context is at most this many times the shortest one


@dataclass(frozen=True, slots=True)
class SingleRows:
    """Single-token rows ``[start, stop)`` of the batch that share a pass."""

    start: int
    stop: int
    index: torch.Tensor  # rows of [kv_heads * num_blocks, block_size * head_dim] their keys are copied from
    mask: torch.Tensor  # additive, [kv_heads * rows, 1, kv_len]


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """Rows ``[start, stop)`` of one sequence."""

    start: int
    stop: int
    index: torch.Tensor  # as above
    mask: torch.Tensor | None  # additive, [rows, kv_len]; None for a chunk that starts its sequence
    kv_len: int
    is_prefill: bool


class GatheredAttention(AttentionBackend):
    """Copies the blocks a batch needs into a dense buffer per layer and multiplies there.

    A single token's query heads of one group see the same keys, so the group takes the place of the query length and nothing is
    repeated:  q [kv_heads * singles, group, head_dim]  x  keys [kv_heads * singles, kv_len, head_dim]. Two batched products are
    measurably faster on a CPU than ``scaled_dot_product_attention`` for so few queries; chunks use the latter.
    """

    def begin(self, batch: AttentionBatch) -> None:
        self._slots = batch.slots
        # Blocks are copied as whole rows, one memory copy per block and head.
        heads = torch.arange(self.kv_heads, device=batch.slots.device)[:, None] * self.cache.num_blocks
        self._singles = [self._gather_singles(batch, heads, start, stop) for start, stop in alike(batch.single_kv_lens)]
        self._chunks: list[ChunkRows] = []
        for chunk in batch.chunks:
            first = chunk.kv_len - chunk.length
            mask = None
            if first:
                visible = torch.ones(chunk.length, chunk.kv_len, dtype=torch.bool, device=heads.device).tril(first)
                mask = additive_mask(visible, self.cache.dtype)
            index = (heads + chunk.blocks).flatten()
            self._chunks.append(
                ChunkRows(chunk.start, chunk.start + chunk.length, index, mask, chunk.kv_len, chunk.is_prefill)
            )

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.cache.store(layer, self._slots, k, v)
        out = torch.empty_like(q)
        keys, values = self.cache.key_rows[layer], self.cache.value_rows[layer]
        self.attend_singles(q, out, keys, values)
        for chunk in self._chunks:
            result = F.scaled_dot_product_attention(
                q[chunk.start : chunk.stop].transpose(0, 1)[None],
                self.chunk_side(keys, chunk, k),
                self.chunk_side(values, chunk, v),
                attn_mask=chunk.mask,
                is_causal=chunk.mask is None,
                enable_gqa=True,
            )
            out[chunk.start : chunk.stop] = result[0].transpose(0, 1)
        return out.flatten(1)

    def chunk_side(self, rows: Rows, chunk: ChunkRows, own: torch.Tensor) -> torch.Tensor:
        """What a chunk sees of its sequence, [1, kv_heads, kv_len, head_dim]; ``own``: the batch's new keys or values."""
        return rows.index_select(0, chunk.index).view(1, self.kv_heads, -1, self.head_dim)[:, :, : chunk.kv_len]

    def attend_singles(self, q: torch.Tensor, out: torch.Tensor, keys: Rows, values: Rows) -> None:
        """Fill the rows of ``out`` that are single tokens. ``keys``, ``values``: the layer's ``[kv_heads * num_blocks, -1]``."""
        for part in self._singles:
            rows = part.stop - part.start
            heads = (rows, self.kv_heads, self.group, self.head_dim)
            dense = (self.kv_heads * rows, -1, self.head_dim)
            scores = torch.baddbmm(
                part.mask,
                q[part.start : part.stop].view(heads).transpose(0, 1).reshape(dense),
                keys.index_select(0, part.index).view(dense).transpose(1, 2),
                alpha=self.scale,
            )  # [kv_heads * rows, group, kv_len]
            result = torch.bmm(scores.softmax(-1), values.index_select(0, part.index).view(dense))
            result = result.view(self.kv_heads, rows, self.group, self.head_dim)
            out[part.start : part.stop].view(heads).copy_(result.transpose(0, 1))

    def _gather_singles(self, batch: AttentionBatch, heads: torch.Tensor, start: int, stop: int) -> SingleRows:
        size = self.cache.block_size
        kv_lens = batch.single_kv_lens[start:stop]
        blocks = -(-kv_lens[-1] // size)
        index = (heads + batch.single_blocks[start:stop, :blocks].flatten()).flatten()
        places = torch.arange(blocks * size, device=heads.device)
        visible = places < torch.tensor(kv_lens, device=heads.device)[:, None]
        mask = additive_mask(visible, self.cache.dtype).repeat(self.kv_heads, 1)[:, None]
        return SingleRows(start, stop, index, mask)


def alike(kv_lens: list[int]) -> list[tuple[int, int]]:
    """Cut rising lengths into ranges ``[start, stop)`` of similar ones, so that little is copied and masked for nothing."""
    ranges: list[tuple[int, int]] = []
    start = 0
    for row, length in enumerate(kv_lens):
        if length > PADDING * max(kv_lens[start], 32):
            ranges.append((start, row))
            start = row
    return [*ranges, (start, len(kv_lens))] if kv_lens else []


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, minus infinity elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
