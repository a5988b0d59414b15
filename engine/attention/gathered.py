"""The fast path without custom kernels: all single-token rows in one pass, chunks one by one, fused softmax from PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.attention.base import AttentionBackend
from engine.batch import AttentionBatch


class GatheredAttention(AttentionBackend):
    """Copies the blocks a batch needs into a dense buffer per layer and hands it to ``scaled_dot_product_attention``.

    A single token's query heads of one group see the same keys, so the group takes the place of the query length and nothing is
    repeated:  q [kv_heads, singles, group, head_dim]  x  keys [kv_heads, singles, kv_len, head_dim].
    """

    def begin(self, batch: AttentionBatch) -> None:
        self._batch = batch
        device = batch.slots.device
        # Blocks are copied as whole rows of [kv_heads * num_blocks, block_size * head_dim], one memory copy per block and head.
        heads = torch.arange(self.kv_heads, device=device)[:, None] * self.cache.num_blocks
        if batch.num_singles:
            width = batch.single_blocks.shape[1] * self.cache.block_size
            self._single_index = (heads + batch.single_blocks.flatten()).flatten()
            visible = torch.arange(width, device=device) < batch.single_kv_lens[:, None]
            self._single_mask = additive_mask(visible, self.cache.data.dtype).view(1, batch.num_singles, 1, width)
        self._chunk_indices = [(heads + chunk.blocks).flatten() for chunk in batch.chunks]
        self._chunk_masks: list[torch.Tensor | None] = []
        for chunk in batch.chunks:
            first = chunk.kv_len - chunk.length
            if first == 0:
                self._chunk_masks.append(None)
                continue
            visible = torch.ones(chunk.length, chunk.kv_len, dtype=torch.bool, device=device).tril(first)
            self._chunk_masks.append(additive_mask(visible, self.cache.data.dtype))

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.cache.store(layer, self._batch.slots, k, v)
        out = torch.empty_like(q)
        keys = self.cache.key_blocks[layer].view(self.kv_heads * self.cache.num_blocks, -1)
        values = self.cache.value_blocks[layer].view(self.kv_heads * self.cache.num_blocks, -1)
        singles = self._batch.num_singles
        if singles:
            shape = (self.kv_heads, singles, -1, self.head_dim)
            grouped = q[:singles].view(singles, self.kv_heads, self.group, self.head_dim).transpose(0, 1)
            result = F.scaled_dot_product_attention(
                grouped,
                keys.index_select(0, self._single_index).view(shape),
                values.index_select(0, self._single_index).view(shape),
                attn_mask=self._single_mask,
            )  # [kv_heads, singles, group, head_dim]
            out[:singles].view(singles, self.kv_heads, self.group, self.head_dim).copy_(result.transpose(0, 1))
        shape = (1, self.kv_heads, -1, self.head_dim)
        for chunk, index, mask in zip(self._batch.chunks, self._chunk_indices, self._chunk_masks, strict=True):
            rows = slice(chunk.start, chunk.start + chunk.length)
            result = F.scaled_dot_product_attention(
                q[rows].transpose(0, 1)[None],
                keys.index_select(0, index).view(shape)[:, :, : chunk.kv_len],
                values.index_select(0, index).view(shape)[:, :, : chunk.kv_len],
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=True,
            )
            out[rows] = result[0].transpose(0, 1)
        return out.flatten(1)


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, minus infinity elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
