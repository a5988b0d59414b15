"""Paged attention as plainly as it can be written: one sequence at a time. The oracle for every other backend."""

from __future__ import annotations

import torch

from engine.attention.base import AttentionBackend
from engine.batch import AttentionBatch, Chunk
from engine.block_table import blocks_for
from engine.kv.cache import Rows


class ReferenceAttention(AttentionBackend):
    """Per sequence, grouped heads, no repeated copies of keys and values, softmax in fp32."""

    def begin(self, batch: AttentionBatch) -> None:
        size = self.cache.block_size
        singles = [
            Chunk(row, 1, kv_len, batch.single_blocks[row, : blocks_for(kv_len, size)])
            for row, kv_len in enumerate(batch.single_kv_lens)
        ]
        self._slots = batch.slots
        self._sequences = singles + list(batch.chunks)
        self._heads = torch.arange(self.kv_heads, device=batch.slots.device)[:, None] * self.cache.num_blocks

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.cache.store(layer, self._slots, k, v)
        out = torch.empty_like(q)
        for chunk in self._sequences:
            rows = slice(chunk.start, chunk.start + chunk.length)
            keys = self._gather(self.cache.key_rows[layer], chunk)  # [kv_heads, kv_len, head_dim]
            values = self._gather(self.cache.value_rows[layer], chunk)
            out[rows] = self._attend(q[rows], keys, values)
        return out.flatten(1)

    def _gather(self, rows: Rows, chunk: Chunk) -> torch.Tensor:
        blocks = rows.index_select(0, (self._heads + chunk.blocks).flatten())
        return blocks.view(self.kv_heads, -1, self.head_dim)[:, : chunk.kv_len]

    def _attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        tokens, kv_len = q.shape[0], keys.shape[1]
        grouped = q.view(tokens, self.kv_heads, self.group, self.head_dim).permute(1, 2, 0, 3)
        grouped = grouped.reshape(self.kv_heads, self.group * tokens, self.head_dim)
        scores = grouped.float() @ keys.float().transpose(1, 2) * self.scale  # [kv_heads, group * tokens, kv_len]
        last_visible = torch.arange(kv_len - tokens, kv_len, device=q.device).repeat(self.group)
        hidden = torch.arange(kv_len, device=q.device) > last_visible[:, None]
        weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
        out = (weights @ values.float()).view(self.kv_heads, self.group, tokens, self.head_dim)
        return out.permute(2, 0, 1, 3).reshape(tokens, self.num_heads, self.head_dim).to(q.dtype)
