"""Shared-prefix attention (Hydragen): what several requests share is read once for all of them.

    keys of a row   | shared prefix, one pass for its whole group | own suffix |
                        O1, LSE1                                     O2, LSE2
    merged          O = (e^(LSE1-m) O1 + e^(LSE2-m) O2) / (e^(LSE1-m) + e^(LSE2-m)),   m = max(LSE1, LSE2)

Exact: numerators and denominators of a softmax add over disjoint sets of keys. Prefixes are whole blocks, so every
member holds them at the same positions and rotated keys are the same. A group's queries are stacked into one matrix:
the prefix costs a matrix product instead of one matrix-vector product per request.
"""

from __future__ import annotations

import torch

from engine.attention.gathered import GatheredAttention, additive_mask, alike
from engine.attention.groups import GroupRule, Piece
from engine.batch import AttentionBatch
from engine.block_table import blocks_for, whole_blocks
from engine.kv.cache import KVCache, Rows

MANY_QUERIES = 16  # from so many on PyTorch's fused kernel for CPUs is faster than two products


class SharedPrefixAttention(GatheredAttention):
    """Gathered attention whose single-token rows attend to shared prefixes together. Chunks attend as ever."""

    def __init__(
        self,
        cache: KVCache,
        num_heads: int,
        kv_heads: int,
        head_dim: int,
        rule: GroupRule = GroupRule(),  # noqa: B008  # frozen
    ) -> None:
        """``rule``: smaller groups and shorter prefixes are read by each row itself."""
        super().__init__(cache, num_heads, kv_heads, head_dim)
        self._rule = rule
        self._paths: list[list[int]] = []
        self._pieces: list[Piece] = []

    def begin(self, batch: AttentionBatch) -> None:
        size = self.cache.block_size
        paths = [
            table[: whole_blocks(n - 1, size)]
            for table, n in zip(batch.single_tables, batch.single_kv_lens, strict=True)
        ]
        if paths != self._paths:  # they change when somebody comes, goes or fills a block
            self._paths, self._pieces = paths, self._rule.find(paths)
        self.spared_tokens = sum(piece.spared_blocks for piece in self._pieces) * size
        super().begin(batch)
        if not self._pieces:
            return
        self._plan(batch)

    def attend_singles(self, q: torch.Tensor, out: torch.Tensor, keys: Rows, values: Rows) -> None:
        if not self._pieces:
            super().attend_singles(q, out, keys, values)
            return
        rows = self._num_singles
        acc = q.new_empty(rows, self.num_heads, self.head_dim, dtype=torch.float32)
        # the largest LSE so far; acc and total stand for themselves times its exponential
        top = q.new_empty(rows, self.num_heads, dtype=torch.float32)
        total = q.new_ones(rows, self.num_heads, dtype=torch.float32)
        for members, index, mask in self._suffixes:
            count = len(members)
            heads = (count, self.kv_heads, self.group, self.head_dim)
            dense = (self.kv_heads, count, -1, self.head_dim)
            result, lse = attend(
                q.index_select(0, members).view(heads).transpose(0, 1),
                keys.index_select(0, index).view(dense),
                values.index_select(0, index).view(dense),
                mask,
            )  # [kv_heads, count, group, head_dim], [kv_heads, count, group]
            acc.index_copy_(0, members, result.transpose(0, 1).reshape(count, self.num_heads, self.head_dim))
            top.index_copy_(0, members, lse.transpose(0, 1).reshape(count, self.num_heads))
        dense = (1, self.kv_heads, -1, self.head_dim)
        for members, index in self._prefixes:
            count = len(members)
            stacked = q.index_select(0, members).view(count, self.kv_heads, self.group, self.head_dim).transpose(0, 1)
            result, lse = attend(
                stacked.reshape(1, self.kv_heads, count * self.group, self.head_dim),
                keys.index_select(0, index).view(dense),
                values.index_select(0, index).view(dense),
                None,
            )  # [1, kv_heads, count * group, head_dim], [1, kv_heads, count * group]
            theirs = (self.kv_heads, count, self.group)
            lse = lse.view(theirs).transpose(0, 1).reshape(count, self.num_heads)
            result = result.view(*theirs, self.head_dim).transpose(0, 1).reshape(count, self.num_heads, self.head_dim)
            before = top.index_select(0, members)
            both = torch.maximum(before, lse)
            old, new = (before - both).exp_(), (lse - both).exp_()
            merged = acc.index_select(0, members).mul_(old[..., None]).add_(result * new[..., None])
            acc.index_copy_(0, members, merged)
            total.index_copy_(0, members, total.index_select(0, members).mul_(old).add_(new))
            top.index_copy_(0, members, both)
        out[:rows] = acc.div_(total[..., None])

    def _plan(self, batch: AttentionBatch) -> None:
        """Rows and cache rows of every prefix and suffix pass."""
        size, device = self.cache.block_size, batch.slots.device
        heads = torch.arange(self.kv_heads, device=device)[:, None] * self.cache.num_blocks
        self._num_singles = batch.num_singles
        covered = [0] * batch.num_singles  # blocks of each row that prefixes cover
        self._prefixes = []
        for piece in self._pieces:
            for row in piece.rows:
                covered[row] = piece.first + len(piece.blocks)
            blocks = torch.tensor(piece.blocks, device=device)
            self._prefixes.append((torch.tensor(piece.rows, device=device), (heads + blocks).flatten()))
        own = [n - c * size for n, c in zip(batch.single_kv_lens, covered, strict=True)]
        order = sorted(range(batch.num_singles), key=own.__getitem__)
        self._suffixes = []
        for start, stop in alike([own[row] for row in order]):
            rows = order[start:stop]
            width = blocks_for(own[rows[-1]], size)
            tables = [batch.single_tables[row][covered[row] : covered[row] + width] for row in rows]
            padded = torch.tensor([t + [0] * (width - len(t)) for t in tables], device=device)
            lengths = torch.tensor([own[row] for row in rows], device=device)
            visible = torch.arange(width * size, device=device) < lengths[:, None]
            mask = additive_mask(visible, self.cache.dtype).view(1, len(rows), 1, width * size)
            self._suffixes.append((torch.tensor(rows, device=device), (heads + padded.flatten()).flatten(), mask))


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and its log-sum-exp.

    Args:
        q: [a, b, queries, head_dim].
        keys, values: [a, b, keys, head_dim].
        mask: additive, broadcast to [a, b, queries, keys]; None: everything is visible.

    Returns:
        [a, b, queries, head_dim] and, the natural log of the sum of exponentials, [a, b, queries]; both float32, so
        that pieces are rounded once, after they are merged.
    """
    q, keys, values = q.float(), keys.float(), values.float()
    if q.device.type == "cpu" and q.shape[-2] >= MANY_QUERIES:
        result, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, keys, values, 0.0, False, attn_mask=mask
        )
        return result, lse
    scores = (q @ keys.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores += mask
    lse = scores.logsumexp(-1)
    weights = scores.sub_(lse[..., None]).exp_()
    return weights @ values, lse
