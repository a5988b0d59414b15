"""Attention over a cache whose codec packs whole windows of tokens: the windows before a token's own as packed, its own
exact.

    a chunk of one sequence, cut where windows end (R tokens each)
    window      0           1             2
    tokens      . . . . . . | . . a a a a | b b . .       rows a see window 0 packed, rows b windows 0 and 1
                              ^ exact tail ^

Each cut is stored and attended to before the next; a window that is complete is packed in between. Its exact form stays
in the tail until other tokens need the place, so a guess that is rejected costs nothing: what was packed with it is
packed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.attention.base import AttentionBackend
from engine.attention.gathered import additive_mask, alike
from engine.batch import AttentionBatch, Chunk
from engine.block_table import block_slots, whole_blocks
from engine.kv.quantized import QuantizedCache, tail_places


@dataclass(frozen=True, slots=True)
class Packing:
    """Windows that are complete."""

    slots: torch.Tensor  # of all their tokens, in the pool
    tail_slots: torch.Tensor  # the same tokens in the tails


@dataclass(frozen=True, slots=True)
class WindowedSingles:
    """Single-token rows ``[start, stop)`` that share a pass."""

    start: int
    stop: int
    packed: torch.Tensor | None  # rows of the packed cache; None where nobody has a whole window
    exact: torch.Tensor  # places in the tails, [rows * widest]
    mask: torch.Tensor  # additive, [kv_heads * rows, 1, packed places + widest]


@dataclass(frozen=True, slots=True)
class WindowPart:
    """Rows ``[start, stop)`` of one sequence that lie in one window."""

    start: int
    stop: int
    tail_slots: torch.Tensor  # where they go in the tails
    pack: Packing | None  # the window, where they complete it


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows ``[start, stop)`` of one sequence that are attended to together, then stored piece by piece."""

    start: int
    stop: int
    packed: torch.Tensor | None  # rows of the packed cache that hold the windows before the first row's
    exact: torch.Tensor  # places in the tails of the tokens of that window before the first row
    mask: torch.Tensor  # additive, [rows, keys]
    pieces: tuple[WindowPart, ...]


class WindowedAttention(AttentionBackend):
    """Gathered attention for codecs with a window: the packed part and the exact part side by side in one softmax."""

    cache: QuantizedCache

    def begin(self, batch: AttentionBatch) -> None:
        cache, device = self.cache, batch.slots.device
        self._heads = torch.arange(self.kv_heads, device=device)[:, None] * cache.num_blocks
        self._num_singles = batch.num_singles
        places = [
            tail * cache.tail_tokens + (n - 1) % cache.tail_tokens
            for tail, n in zip(batch.single_tails, batch.single_kv_lens, strict=True)
        ]
        self._single_slots = torch.tensor(places, dtype=torch.int64, device=device)
        self._single_pack = self._complete(batch)
        self._singles = [self._plan_singles(batch, start, stop) for start, stop in alike(batch.single_kv_lens)]
        self._cuts = [cut for chunk in batch.chunks for cut in self._plan_chunk(batch, chunk)]

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(q)
        if self._num_singles:
            rows = slice(0, self._num_singles)
            self.cache.keep(layer, self._single_slots, k[rows], v[rows])
            if self._single_pack is not None:
                self.cache.pack(layer, self._single_pack.slots, self._single_pack.tail_slots)
            for part in self._singles:
                self._attend_singles(layer, part, q, out)
        for cut in self._cuts:
            self._attend_cut(layer, cut, q, k, v, out)
        return out.flatten(1)

    def _attend_singles(self, layer: int, part: WindowedSingles, q: torch.Tensor, out: torch.Tensor) -> None:
        rows = part.stop - part.start
        heads = (rows, self.kv_heads, self.group, self.head_dim)
        dense = (self.kv_heads * rows, -1, self.head_dim)
        keys = self.cache.tail_keys[layer].index_select(1, part.exact).view(dense)
        values = self.cache.tail_values[layer].index_select(1, part.exact).view(dense)
        if part.packed is not None:
            keys = torch.cat((self.cache.key_rows[layer].index_select(0, part.packed).view(dense), keys), 1)
            values = torch.cat((self.cache.value_rows[layer].index_select(0, part.packed).view(dense), values), 1)
        queries = q[part.start : part.stop].view(heads).transpose(0, 1).reshape(dense)
        scores = torch.baddbmm(part.mask, queries, keys.transpose(1, 2), alpha=self.scale)
        result = torch.bmm(scores.softmax(-1), values).view(self.kv_heads, rows, self.group, self.head_dim)
        out[part.start : part.stop].view(heads).copy_(result.transpose(0, 1))

    def _attend_cut(
        self, layer: int, cut: Cut, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor
    ) -> None:
        rows = slice(cut.start, cut.stop)
        sides = []
        for own, tail, packed in (
            (k, self.cache.tail_keys, self.cache.key_rows),
            (v, self.cache.tail_values, self.cache.value_rows),
        ):
            parts = [own[rows].transpose(0, 1)]
            if len(cut.exact):
                parts.insert(0, tail[layer].index_select(1, cut.exact))
            if cut.packed is not None:
                before = packed[layer].index_select(0, cut.packed)
                parts.insert(0, before.view(self.kv_heads, -1, self.head_dim))
            sides.append(torch.cat(parts, 1)[None])
        result = F.scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None], sides[0], sides[1], attn_mask=cut.mask, enable_gqa=True
        )
        out[rows] = result[0].transpose(0, 1)
        for piece in cut.pieces:
            self.cache.keep(layer, piece.tail_slots, k[piece.start : piece.stop], v[piece.start : piece.stop])
            if piece.pack is not None:
                self.cache.pack(layer, piece.pack.slots, piece.pack.tail_slots)

    def _plan_singles(self, batch: AttentionBatch, start: int, stop: int) -> WindowedSingles:
        cache, device = self.cache, batch.slots.device
        window, size = cache.codec.window, cache.block_size
        kv_lens, tails = batch.single_kv_lens[start:stop], batch.single_tails[start:stop]
        begins = [(n - 1) // window * window for n in kv_lens]
        widest = max(n - begin for n, begin in zip(kv_lens, begins, strict=True))
        exact = [
            place
            for tail, begin in zip(tails, begins, strict=True)
            for place in tail_places(tail, cache.tail_tokens, range(begin, begin + widest))
        ]
        blocks = whole_blocks(max(begins), size)
        packed = None
        if blocks:
            packed = (self._heads + batch.single_blocks[start:stop, :blocks].flatten()).flatten()
        before = torch.arange(blocks * size, device=device) < torch.tensor(begins, device=device)[:, None]
        own = torch.tensor([n - begin for n, begin in zip(kv_lens, begins, strict=True)], device=device)
        visible = torch.cat((before, torch.arange(widest, device=device) < own[:, None]), 1)
        mask = additive_mask(visible, cache.dtype).repeat(self.kv_heads, 1)[:, None]
        return WindowedSingles(start, stop, packed, torch.tensor(exact, device=device), mask)

    def _plan_chunk(self, batch: AttentionBatch, chunk: Chunk) -> list[Cut]:
        """Cut where windows end; a prefill that reads itself exactly is attended to in one piece."""
        window = self.cache.codec.window
        first, last = chunk.kv_len - chunk.length, chunk.kv_len
        ends = [*range((first // window + 1) * window, last, window), last]
        pieces = [self._plan_piece(chunk, a, b) for a, b in zip([first, *ends[:-1]], ends, strict=True)]
        if chunk.is_prefill and self.exact_prefill:
            return [self._plan_cut(batch, chunk, tuple(pieces))]
        return [self._plan_cut(batch, chunk, (piece,)) for piece in pieces]

    def _plan_cut(self, batch: AttentionBatch, chunk: Chunk, pieces: tuple[WindowPart, ...]) -> Cut:
        cache, device = self.cache, batch.slots.device
        start, stop = pieces[0].start, pieces[-1].stop
        first = chunk.kv_len - chunk.length + start - chunk.start  # the first row's place in the sequence
        begin = first // cache.codec.window * cache.codec.window
        packed = (self._heads + chunk.blocks[: whole_blocks(begin, cache.block_size)]).flatten() if begin else None
        exact = tail_places(chunk.tail, cache.tail_tokens, range(begin, first))
        visible = torch.ones(stop - start, first + stop - start, dtype=torch.bool, device=device).tril(first)
        return Cut(
            start,
            stop,
            packed,
            torch.tensor(exact, dtype=torch.int64, device=device),
            additive_mask(visible, cache.dtype),
            pieces,
        )

    def _plan_piece(self, chunk: Chunk, first: int, last: int) -> WindowPart:
        """The chunk's tokens at places ``[first, last)`` of the sequence, within one window."""
        cache, device = self.cache, chunk.blocks.device
        window, size = cache.codec.window, cache.block_size
        begin = first // window * window
        row = chunk.start + first - (chunk.kv_len - chunk.length)

        def tail(a: int, b: int) -> torch.Tensor:
            return torch.tensor(tail_places(chunk.tail, cache.tail_tokens, range(a, b)), device=device)

        pack = None
        if last == begin + window:
            pack = Packing(
                block_slots(chunk.blocks[whole_blocks(begin, size) : whole_blocks(last, size)], size), tail(begin, last)
            )
        return WindowPart(row, row + last - first, tail(first, last), pack)

    def _complete(self, batch: AttentionBatch) -> Packing | None:
        """The windows that single tokens complete."""
        cache, device = self.cache, batch.slots.device
        window, size = cache.codec.window, cache.block_size
        slots, places = [], []
        for row, n in enumerate(batch.single_kv_lens):
            if n % window == 0:
                slots.append(
                    block_slots(batch.single_blocks[row, whole_blocks(n - window, size) : whole_blocks(n, size)], size)
                )
                places += tail_places(batch.single_tails[row], cache.tail_tokens, range(n - window, n))
        return Packing(torch.cat(slots), torch.tensor(places, device=device)) if slots else None
