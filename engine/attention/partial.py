"""Attention of some rows over some of their keys: partial results that are merged exactly.

    a row's keys    | in the far pool | in the KV pool |
                      O1, LSE1          O2, LSE2
    merged          O = (e^(LSE1-m) O1 + e^(LSE2-m) O2) / (e^(LSE1-m) + e^(LSE2-m)),   m = max(LSE1, LSE2)

The log-sum-exp of a part says what its largest score and the sum of its exponentials would (Infinite-LLM, 2024, sends
these two).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from engine.attention.gathered import additive_mask, alike
from engine.attention.shared import attend
from engine.block_table import blocks_for
from engine.kv.cache import KVCache


class Part(NamedTuple):
    """Consecutive rows of one sequence, and the keys that they attend to."""

    row: int  # the first
    rows: int
    blocks: Sequence[int]  # of the cache, from the first key on
    keys: int  # that the last row sees
    causal: bool = False  # each row sees a key less than the next one; False: all rows see all of them


class _Pass(NamedTuple):
    rows: torch.Tensor  # [count]; of one part, or a row each of several
    lie: torch.Tensor  # rows of [kv_heads * num_blocks, block_size * head_dim] that hold the keys
    mask: torch.Tensor | None  # additive; None: everything is visible
    together: bool  # rows of one part, with the same keys


class PartialAttention:
    """Attention over one cache with the log-sum-exp of every row and head."""

    def __init__(self, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int) -> None:
        self.cache = cache
        self.num_heads, self.kv_heads, self.head_dim = num_heads, kv_heads, head_dim
        self.group = num_heads // kv_heads
        self._passes: list[_Pass] = []

    def begin(self, parts: Sequence[Part]) -> None:
        """Take in who attends to what; no row is in two parts."""
        heads = torch.arange(self.kv_heads)[:, None] * self.cache.num_blocks
        singles = sorted((part for part in parts if part.rows == 1), key=lambda part: part.keys)
        self._passes = [
            self._singles(singles[start:stop], heads) for start, stop in alike([part.keys for part in singles])
        ]
        self._passes += [self._chunk(part, heads) for part in parts if part.rows > 1]

    def forward(self, layer: int, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer's partial results.

        Args:
            q: [rows, num_heads, head_dim].

        Returns:
            [rows, num_heads, head_dim] and [rows, num_heads], float32; zeros and minus infinity for rows that are in no
            part.
        """
        keys, values = self.cache.key_rows[layer], self.cache.value_rows[layer]
        out = q.new_zeros(q.shape, dtype=torch.float32)
        lse = q.new_full(q.shape[:2], float("-inf"), dtype=torch.float32)
        for part in self._passes:
            count = len(part.rows)
            asked = q.index_select(0, part.rows).view(count, self.kv_heads, self.group, self.head_dim).transpose(0, 1)
            sequences = 1 if part.together else count
            dense = (self.kv_heads, sequences, -1, self.head_dim)
            k, v = (side.index_select(0, part.lie).view(dense) for side in (keys, values))
            if part.together:
                asked = asked.transpose(1, 2).reshape(1, self.kv_heads, self.group * count, self.head_dim)
                k, v = k.transpose(0, 1), v.transpose(0, 1)
            result, sums = attend(asked, k, v, part.mask)
            if part.together:
                result = result.view(self.kv_heads, self.group, count, self.head_dim).permute(2, 0, 1, 3)
                sums = sums.view(self.kv_heads, self.group, count).permute(2, 0, 1)
            else:
                result, sums = result.transpose(0, 1), sums.transpose(0, 1)
            out.index_copy_(0, part.rows, result.reshape(count, self.num_heads, self.head_dim))
            lse.index_copy_(0, part.rows, sums.reshape(count, self.num_heads))
        return out, lse

    def _singles(self, parts: Sequence[Part], heads: torch.Tensor) -> _Pass:
        """Rows of several sequences side by side, filled up to the longest."""
        size = self.cache.block_size
        width = blocks_for(parts[-1].keys, size)
        tables = [list(part.blocks[:width]) for part in parts]
        padded = torch.tensor([table + [0] * (width - len(table)) for table in tables])
        mask = None
        if parts[0].keys < width * size:
            visible = torch.arange(width * size) < torch.tensor([part.keys for part in parts])[:, None]
            mask = additive_mask(visible, torch.float32)[None, :, None]
        rows = torch.tensor([part.row for part in parts])
        return _Pass(rows, (heads + padded.flatten()).flatten(), mask, together=False)

    def _chunk(self, part: Part, heads: torch.Tensor) -> _Pass:
        width, size = blocks_for(part.keys, self.cache.block_size), self.cache.block_size
        blocks = torch.tensor(part.blocks[:width])
        mask = None
        if part.causal or part.keys < width * size:
            visible = torch.ones(part.rows, width * size, dtype=torch.bool)
            visible[:, part.keys :] = False
            if part.causal:
                visible = visible.tril(part.keys - part.rows)
            mask = additive_mask(visible, torch.float32).repeat(self.group, 1)[None, None]
        rows = torch.arange(part.row, part.row + part.rows)
        return _Pass(rows, (heads + blocks).flatten(), mask, together=True)


def merged(near: tuple[torch.Tensor, torch.Tensor], away: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Partial results of the same rows over disjoint keys -> what one pass over all of them gives. The first output is
    written over.

    Args:
        near, away: outputs [rows, heads, head_dim] and log-sum-exps [rows, heads], float32. Every row has keys in one
            of them at least.
    """
    (out, lse), (other, other_lse) = near, away
    top = torch.maximum(lse, other_lse)
    weight, other_weight = (lse - top).exp_(), (other_lse - top).exp_()
    total = weight + other_weight
    return out.mul_((weight / total)[..., None]).addcmul_(other, (other_weight / total)[..., None])
