"""Attention as batches without pages do it: every row padded to the longest. For teaching what a ragged batch spares.

Sequences of a batch end together, pads stand before their content (EqSpec, 2025)::

    keys     | . . . . a0 a1 a2 a3 |     queries  | . a3 |      . pad: computed like the rest, hidden by the mask
             | b0 b1 b2 b3 b4 b5 b6 b7 |          | b6 b7 |

A sequence that accepts more guesses than another has to be moved against it: the rectangle is laid out anew from the
pages for every step, and what moved is counted. With ``same_length`` only sequences of equal length share a rectangle
(ExSpec): nothing is padded.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

import torch

from engine.attention.gathered import GatheredAttention
from engine.batch import AttentionBatch
from engine.block_table import slots_at, whole_blocks
from engine.kv.cache import KVCache

LONGEST_VERIFY = 17  # tokens; a longer chunk is a prompt, which is computed as ever


@dataclass(frozen=True)
class Rectangle:
    """Some sequences side by side."""

    rows: torch.Tensor  # [sequences, queries] of the flat batch; pads name any
    real: torch.Tensor  # [sequences, queries] bool: not a pad
    slots: torch.Tensor  # [sequences * keys] of the cache; pads name any
    visible: torch.Tensor  # [sequences, queries, keys] bool


@dataclass
class PaddingCounts:
    """What padding cost so far."""

    steps: int = 0
    tokens: int = 0  # rows that were asked for
    padded_tokens: int = 0  # rows computed for nothing
    keys: int = 0
    padded_keys: int = 0
    aligned_keys: int = 0  # copied from their pages to their places in a rectangle of unequal rows, in one layer
    align_ns: int = 0  # laying out rectangles of unequal rows, all layers


class RectangleAttention(GatheredAttention):
    """Decodes and verifications in padded rectangles; prompts as in ``GatheredAttention``."""

    def __init__(
        self, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int, *, same_length: bool = False
    ) -> None:
        super().__init__(cache, num_heads, kv_heads, head_dim)
        self.same_length = same_length
        self.hides_pads = True  # off: a known bug, to be seen and found
        self.counts = PaddingCounts()
        self.rectangles: list[Rectangle] = []

    def begin(self, batch: AttentionBatch) -> None:
        chunks = tuple(chunk for chunk in batch.chunks if chunk.length > LONGEST_VERIFY)
        self._slots = batch.slots
        heads = torch.arange(self.kv_heads, device=batch.slots.device)[:, None] * self.cache.num_blocks
        self._singles = []
        self._chunks, self._short = self._gather_chunks(chunks, heads), []
        short = [(row, 1, kv_len, batch.single_blocks[row]) for row, kv_len in enumerate(batch.single_kv_lens)] + [
            (c.start, c.length, c.kv_len, c.blocks) for c in batch.chunks if c.length <= LONGEST_VERIFY
        ]
        groups: dict[tuple[int, int], list[tuple[int, int, int, torch.Tensor]]] = defaultdict(list)
        for sequence in short:
            groups[(sequence[2], sequence[1]) if self.same_length else (0, 0)].append(sequence)
        self.padded_tokens = self.padded_keys = 0
        self.rectangles = [self._rectangle(group) for group in groups.values()]
        self.counts.steps += 1
        self.counts.padded_tokens += self.padded_tokens
        self.counts.padded_keys += self.padded_keys

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = super().forward(layer, q, k, v).view(q.shape)
        for rectangle in self.rectangles:
            sequences, queries = rectangle.rows.shape
            started = time.perf_counter_ns()
            keys = self.cache.key_slots[layer].index_select(1, rectangle.slots)
            values = self.cache.value_slots[layer].index_select(1, rectangle.slots)
            if not bool(rectangle.visible[:, -1].all()):
                self.counts.align_ns += time.perf_counter_ns() - started
            keys, values = (x.view(self.kv_heads, sequences, -1, self.head_dim).transpose(0, 1) for x in (keys, values))
            heads = (sequences, queries, self.kv_heads, self.group, self.head_dim)
            asked = (
                q[rectangle.rows].view(heads).permute(0, 2, 3, 1, 4)
            )  # [sequences, kv_heads, group, queries, head_dim]
            scores = asked.float() @ keys.float().transpose(-1, -2)[:, :, None] * self.scale
            scores.masked_fill_(~rectangle.visible[:, None, None], float("-inf"))
            result = scores.softmax(-1).nan_to_num_() @ values.float()[:, :, None]  # a pad sees nothing
            result = result.permute(0, 3, 1, 2, 4).reshape(sequences, queries, self.num_heads, self.head_dim)
            out[rectangle.rows[rectangle.real]] = result[rectangle.real].to(q.dtype)
        return out.flatten(1)

    def seen(self) -> list[tuple[int, int]]:
        """Each row of the batch that is in a rectangle, and how many keys it sees; for checks."""
        return [
            (int(row), int(count))
            for rectangle in self.rectangles
            for row, count in zip(
                rectangle.rows[rectangle.real], rectangle.visible.sum(-1)[rectangle.real], strict=True
            )
        ]

    def _rectangle(self, group: list[tuple[int, int, int, torch.Tensor]]) -> Rectangle:
        size, device = self.cache.block_size, self._slots.device
        queries, keys = max(entry[1] for entry in group), max(entry[2] for entry in group)
        rows = torch.zeros(len(group), queries, dtype=torch.int64, device=device)
        real = torch.zeros(len(group), queries, dtype=torch.bool, device=device)
        slots = torch.empty(len(group), keys, dtype=torch.int64, device=device)
        visible = torch.zeros(len(group), queries, keys, dtype=torch.bool, device=device)
        for i, (start, length, kv_len, blocks) in enumerate(group):
            rows[i, queries - length :] = torch.arange(start, start + length, device=device)
            real[i, queries - length :] = True
            places = torch.arange(kv_len, device=device)
            slots[i, keys - kv_len :] = slots_at(blocks[whole_blocks(places, size)], places, size)
            slots[i, : keys - kv_len] = slots[i, -1]  # its own: no other need have memory behind it
            own = torch.ones(length, kv_len, dtype=torch.bool, device=device).tril(kv_len - length)
            visible[i, queries - length :, keys - kv_len :] = own
            if not self.hides_pads:
                visible[i, queries - length :, : keys - kv_len] = True
        counts = self.counts
        real_tokens, real_keys = sum(entry[1] for entry in group), sum(entry[2] for entry in group)
        counts.tokens += real_tokens
        counts.keys += real_keys
        self.padded_tokens += len(group) * queries - real_tokens
        self.padded_keys += len(group) * keys - real_keys
        if len(group) * keys > real_keys:
            counts.aligned_keys += real_keys
        return Rectangle(rows, real, slots.flatten(), visible)
