"""The fast path without custom kernels: single-token rows and verifications in a few batched passes, other chunks one
by one."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.attention.base import AttentionBackend
from engine.batch import AttentionBatch, Chunk
from engine.block_table import blocks_for
from engine.kv.cache import Rows

FEW_QUERIES = (
    4,
    8,
    17,
)  # chunks up to these lengths, verifications or as small as them, share passes with others of about their length
PASS_TOKENS = 450  # padding that costs about as much as one more pass: two CPU cores, bfloat16, 3 KV heads of 64
MOST_LENGTHS = 32  # that are told apart when rows are put together


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


@dataclass(frozen=True, slots=True)
class ShortChunks:
    """Short chunks that share a pass: its rows are filled up to the longest chunk, the others' ends with rows that
    nobody reads."""

    rows: torch.Tensor  # [chunks * length] of the batch; a chunk's last one again where it is shorter
    length: int
    own: torch.Tensor | None  # which of those are chunks' own; None: all
    into: torch.Tensor  # the rows of the batch that are
    index: torch.Tensor  # as above
    mask: torch.Tensor  # additive, [chunks, 1, length, keys]


class GatheredAttention(AttentionBackend):
    """Copies the blocks a batch needs into a dense buffer per layer and multiplies there.

    A single token's query heads of one group see the same keys, so the group takes the place of the query length and
    nothing is repeated:  q [kv_heads * singles, group, head_dim]  x  keys [kv_heads * singles, kv_len, head_dim]. Two
    batched products are measurably faster on a CPU than ``scaled_dot_product_attention`` for so few queries; chunks use
    the latter.
    """

    def begin(self, batch: AttentionBatch) -> None:
        self._slots = batch.slots
        # Blocks are copied as whole rows, one memory copy per block and head.
        heads = torch.arange(self.kv_heads, device=batch.slots.device)[:, None] * self.cache.num_blocks
        self._singles = [self._gather_singles(batch, heads, start, stop) for start, stop in alike(batch.single_kv_lens)]
        short: dict[int, list[Chunk]] = defaultdict(list)
        for chunk in batch.chunks:
            if chunk.length <= FEW_QUERIES[-1] and not (chunk.is_prefill and self.exact_prefill):
                short[bisect_left(FEW_QUERIES, chunk.length)].append(chunk)
        together = [group for group in short.values() if len(group) > 1]
        alone = {chunk.start for group in together for chunk in group}
        self._chunks = self._gather_chunks([chunk for chunk in batch.chunks if chunk.start not in alone], heads)
        self._short = [part for group in together for part in self._gather_short(group, heads)]

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.store(layer, k, v)
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
        for part in self._short:
            chunks = len(part.rows) // part.length
            dense = (self.kv_heads, chunks, -1, self.head_dim)
            heads = (chunks, part.length, self.kv_heads, self.group, self.head_dim)
            asked = q.index_select(0, part.rows).view(heads).permute(2, 0, 3, 1, 4)
            asked = asked.reshape(self.kv_heads, chunks, self.group * part.length, self.head_dim)
            scores = asked @ keys.index_select(0, part.index).view(dense).transpose(-1, -2)
            scores = scores.view(self.kv_heads, chunks, self.group, part.length, -1).mul_(self.scale).add_(part.mask)
            weights = scores.softmax(-1).view(self.kv_heads, chunks, self.group * part.length, -1)
            result = weights @ values.index_select(0, part.index).view(dense)
            result = result.view(self.kv_heads, chunks, self.group, part.length, self.head_dim).permute(1, 3, 0, 2, 4)
            result = result.reshape(-1, self.num_heads, self.head_dim)
            out.index_copy_(0, part.into, result if part.own is None else result[part.own])
        return out.flatten(1)

    def store(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write the batch's new keys and values [tokens, kv_heads, head_dim] to their slots."""
        self.cache.store(layer, self._slots, k, v)

    def chunk_side(self, rows: Rows, chunk: ChunkRows, own: torch.Tensor) -> torch.Tensor:
        """What a chunk sees of its sequence, [1, kv_heads, kv_len, head_dim]; ``own``: the batch's new keys or
        values."""
        return rows.index_select(0, chunk.index).view(1, self.kv_heads, -1, self.head_dim)[:, :, : chunk.kv_len]

    def attend_singles(self, q: torch.Tensor, out: torch.Tensor, keys: Rows, values: Rows) -> None:
        """Fill the rows of ``out`` that are single tokens. ``keys``, ``values``: the layer's ``[kv_heads * num_blocks,
        -1]``."""
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

    def _gather_chunks(self, chunks: Sequence[Chunk], heads: torch.Tensor) -> list[ChunkRows]:
        gathered = []
        for chunk in chunks:
            first = chunk.kv_len - chunk.length
            mask = None
            if first:
                visible = torch.ones(chunk.length, chunk.kv_len, dtype=torch.bool, device=heads.device).tril(first)
                mask = additive_mask(visible, self.cache.dtype)
            index = (heads + chunk.blocks).flatten()
            gathered.append(
                ChunkRows(chunk.start, chunk.start + chunk.length, index, mask, chunk.kv_len, chunk.is_prefill)
            )
        return gathered

    def _gather_short(self, chunks: list[Chunk], heads: torch.Tensor) -> list[ShortChunks]:
        """Passes for chunks of about one length, those with contexts of similar length together."""
        size, device = self.cache.block_size, heads.device
        chunks = sorted(chunks, key=lambda chunk: chunk.kv_len)
        gathered = []
        for start, stop in alike([chunk.kv_len for chunk in chunks]):
            part = chunks[start:stop]
            lengths = [chunk.length for chunk in part]
            length = max(lengths)
            width = len(part[-1].blocks)
            blocks = torch.empty(len(part), width, dtype=torch.int64, device=device)
            for i, chunk in enumerate(part):
                blocks[i, : len(chunk.blocks)] = chunk.blocks
                blocks[i, len(chunk.blocks) :] = chunk.blocks[-1]  # its own: no other need have memory behind it
            places, ahead = torch.arange(width * size, device=device), torch.arange(length, device=device)
            last = torch.tensor(lengths, device=device)[:, None] - 1
            within = torch.minimum(ahead, last)
            starts, first = (
                torch.tensor(ends, device=device)[:, None]
                for ends in ([chunk.start for chunk in part], [chunk.kv_len - chunk.length for chunk in part])
            )
            visible = places <= (first + within)[..., None]
            mask = additive_mask(visible, self.cache.dtype)[:, None]
            rows = (starts + within).flatten()
            own = None if min(lengths) == length else (ahead <= last).flatten().nonzero()[:, 0]
            index = (heads + blocks.flatten()).flatten()
            gathered.append(ShortChunks(rows, length, own, rows if own is None else rows[own], index, mask))
        return gathered

    def _gather_singles(self, batch: AttentionBatch, heads: torch.Tensor, start: int, stop: int) -> SingleRows:
        size = self.cache.block_size
        kv_lens = batch.single_kv_lens[start:stop]
        blocks = blocks_for(kv_lens[-1], size)
        index = (heads + batch.single_blocks[start:stop, :blocks].flatten()).flatten()
        places = torch.arange(blocks * size, device=heads.device)
        visible = places < torch.tensor(kv_lens, device=heads.device)[:, None]
        mask = additive_mask(visible, self.cache.dtype).repeat(self.kv_heads, 1)[:, None]
        return SingleRows(start, stop, index, mask)


def alike(kv_lens: list[int]) -> list[tuple[int, int]]:
    """Cut rising lengths into ranges ``[start, stop)`` that are padded to their longest, at the least cost.

    What a pass costs by itself is set against what is copied and masked for nothing; the best cut is found exactly, for
    lengths rounded up so that there are few of them.
    """
    if not kv_lens:
        return []
    step = max(1, -(-kv_lens[-1] // MOST_LENGTHS))
    stops: dict[int, int] = {}  # by rounded length, the row behind the last one of it
    for row, length in enumerate(kv_lens):
        stops[-(-length // step)] = row + 1
    ends, lengths = [0, *stops.values()], [0, *(n * step for n in stops)]
    cheapest, cut_before = [0], [0]
    for j in range(1, len(ends)):
        costs = [cheapest[i] + (ends[j] - ends[i]) * lengths[j] for i in range(j)]
        i = min(range(j), key=costs.__getitem__)
        cheapest.append(costs[i] + PASS_TOKENS)
        cut_before.append(i)
    ranges, j = [], len(ends) - 1
    while j:
        ranges.append((ends[cut_before[j]], ends[j]))
        j = cut_before[j]
    return ranges[::-1]


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, minus infinity elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
