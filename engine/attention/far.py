"""Attention with a far pool (after Infinite-LLM, 2024): a sequence's first blocks may lie there, and are attended to
there.

    places of a chunk of prompt    0            B              kv_len      B: tokens in the far pool
    keys                           | far pool   | KV pool      |
    rows of the chunk                      | A  | C         |
                                   A: keys of the far pool up to its own      C: all of them, and its own in the KV pool

Per layer one message takes queries there, with keys and values of tokens whose places are there, and one brings partial
results back. Both parts are computed on the same cores, one after the other; an emulated link's time counts from the
first message, so what is computed meanwhile hides as much of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from engine.attention.gathered import GatheredAttention
from engine.attention.partial import Part, PartialAttention, merged
from engine.batch import AttentionBatch
from engine.kv.cache import KVCache
from engine.kv.far import FarWork


class SequenceRows(NamedTuple):
    """Rows of one sequence in a batch."""

    row: int  # the first
    rows: int
    kv_len: int  # keys that the last one sees
    table: Sequence[int]
    lent: int  # blocks of it in the far pool, its first ones


class FarAttention(GatheredAttention):
    """Gathered attention whose rows with blocks in the far pool attend in two parts. The others attend as ever."""

    def __init__(self, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int) -> None:
        """``cache``: with a far pool (``KVCache.far``)."""
        super().__init__(cache, num_heads, kv_heads, head_dim)
        assert cache.far is not None
        self.far = cache.far
        self._near = PartialAttention(cache, num_heads, kv_heads, head_dim)
        self._away = PartialAttention(self.far.cache, num_heads, kv_heads, head_dim)
        self._rows: torch.Tensor | None = None  # of the batch that attend in parts; None: there are none

    def begin(self, batch: AttentionBatch) -> None:
        singles = [
            SequenceRows(row, 1, kv_len, table, self._lent(table))
            for row, (kv_len, table) in enumerate(zip(batch.single_kv_lens, batch.single_tables, strict=True))
        ]
        chunks = [
            SequenceRows(c.start, c.length, c.kv_len, table := c.blocks.tolist(), self._lent(table))
            for c in batch.chunks
        ]
        self._rows = None
        parted = [chunk for chunk in chunks if chunk.lent]
        whole = tuple(c for c, chunk in zip(batch.chunks, chunks, strict=True) if not chunk.lent)
        batch = replace(batch, chunks=whole)
        if any(single.lent for single in singles):  # then all of them, as those of one length share a pass
            parted = singles + parted
            batch = replace(batch, num_singles=0, single_kv_lens=[], single_tables=[], single_tails=())
        super().begin(batch)
        if parted:
            self._plan(batch.slots, parted)
            size, everybody = self.cache.block_size, singles + chunks
            far = sum(min(s.lent * size, s.kv_len) for s in everybody)
            self.far.work.add(FarWork(keys=far, near_keys=sum(s.kv_len for s in everybody) - far))

    def store(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        if self._rows is None or not self._stored:
            super().store(layer, k, v)
            return
        for cache, rows, slots in self._stores:
            cache.store(layer, slots, k.index_select(0, rows), v.index_select(0, rows))

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if self._rows is None:
            return super().forward(layer, q, k, v)
        clock, work, begun = self.far.clock, self.far.work, self.far.clock()
        out = super().forward(layer, q, k, v).view(q.shape)  # its rows in parts are filled below
        asked = q.index_select(0, self._rows)
        near = self._near.forward(layer, asked)
        between = clock()
        away = self._away.forward(layer, asked)
        spent = clock() - between
        sent = self._asking * self.num_heads * self.head_dim * q.element_size() + self._stored * k[:1].nbytes * 2
        returned = self._asking * self.num_heads * (self.head_dim + 1) * 4  # in float32, with the log-sum-exp
        work.compute_ns += spent
        work.link_ns += self.far.wait(begun, 2, sent + returned, beside_ns=spent)
        work.sent_bytes += sent
        work.returned_bytes += returned
        out.index_copy_(0, self._rows, merged(near, away).to(q.dtype))
        return out.flatten(1)

    def _lent(self, table: Sequence[int]) -> int:
        return sum(1 for block in table if block >= self.far.first)

    def _plan(self, slots: torch.Tensor, sequences: Sequence[SequenceRows]) -> None:
        """Cut sequences into what lies where."""
        first, size = self.far.first, self.cache.block_size
        near: list[Part] = []
        away: list[Part] = []
        row = 0
        for sequence in sequences:
            far = [block - first for block in sequence.table[: sequence.lent]]
            rows, bound = sequence.rows, sequence.lent * size
            before = min(rows, max(0, bound - (sequence.kv_len - rows)))  # rows whose own places are in the far pool
            if before:
                away.append(Part(row, before, far, min(bound, sequence.kv_len), causal=True))
            if after := rows - before:
                keys = sequence.kv_len - bound
                near.append(Part(row + before, after, sequence.table[sequence.lent :], keys, causal=True))
                if far:
                    away.append(Part(row + before, after, far, bound))
            row += rows
        self._rows = torch.cat([torch.arange(s.row, s.row + s.rows) for s in sequences])
        self._near.begin(near)
        self._away.begin(away)
        there, here = ((slots >= first * size).nonzero()[:, 0], (slots < first * size).nonzero()[:, 0])
        stores = ((self.cache, here, slots[here]), (self.far.cache, there, slots[there] - first * size))
        self._stores = [store for store in stores if len(store[1])]
        self._asking, self._stored = sum(part.rows for part in away), len(there)
        self.far.work.add(FarWork(rows=self._asking, stored_tokens=self._stored))
