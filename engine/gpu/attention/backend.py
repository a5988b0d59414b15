"""The custom kernels behind the contract of ``AttentionBackend``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import triton

from engine.attention.base import AttentionBackend
from engine.attention.groups import GroupRule
from engine.gpu.attention.configs import Tile, fewest_of_each, segments_for, tile_for
from engine.gpu.attention.kernels import merge_segments, paged_attention, shared_prefixes
from engine.gpu.attention.launch import Launch
from engine.gpu.attention.prefixes import PrefixPasses
from engine.gpu.batch import Ragged, SharedRows
from engine.gpu.kernels.forms import KernelForm, Side
from engine.gpu.kernels.pack import Pair, keep, pack
from engine.kv.cache import KVCache
from engine.kv.codecs.rotation import hadamard
from engine.kv.quantized import QuantizedCache

MERGED_AT_ONCE = 16  # segments one step of the merge reads
INTERPRETED_PROCESSORS = 4  # stands for the device's multiprocessors where the kernels are interpreted


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU (``TRITON_INTERPRET=1`` when it was first imported)."""
    return not isinstance(paged_attention, triton.runtime.JITFunction)


class TritonAttention(AttentionBackend):
    """Reads the cache where it lies, packed or not. Single tokens and longer parts of a batch are two launches of the
    same kernel; prefixes that single tokens share are one launch more, before their results are merged.

    With a packed cache, ``attend`` takes queries as the cache's keys are: with their channels mixed, where the codec
    asks for that.

    Where keys and values are also read as they were before packing, ``own`` holds those of the batch. ``attend`` then
    needs them in there, single tokens of a codec with a window in their tails, and ``pack`` to have been called for a
    codec that is not packed ``at_once``.
    """

    passes: PrefixPasses | None = None  # over shared prefixes, planned with the batch
    tail_tokens = 0  # of each sequence's exact tail, where the cache has one

    def __init__(
        self,
        cache: KVCache,
        num_heads: int,
        kv_heads: int,
        head_dim: int,
        rule: GroupRule | None = None,
        *,
        exact_prefill: bool = False,
    ) -> None:
        """``rule``: when rows that share a prefix read it together; None: never. ``exact_prefill``: a prompt's chunk
        reads its own keys and values as they were before packing."""
        super().__init__(cache, num_heads, kv_heads, head_dim)
        self.exact_prefill = exact_prefill
        device, dtype = cache.device, cache.dtype
        self._padded_dim = triton.next_power_of_2(head_dim)
        # Of float32: three products of its halves, right in all but the last bits. Ignored for 16-bit numbers.
        self._precision = "tf32x3"
        self.widen = interpreted() and dtype == torch.bfloat16
        self._processors = (
            torch.cuda.get_device_properties(device).multi_processor_count
            if device.type == "cuda"
            else INTERPRETED_PROCESSORS
        )
        self.form = KernelForm.of(cache.codec, head_dim)
        if rule is not None:
            self.passes = PrefixPasses(
                rule,
                block_size=cache.block_size,
                group=self.group,
                kv_heads=kv_heads,
                element_bytes=dtype.itemsize,
                padded_dim=self._padded_dim,
                processors=self._processors,
                bits=self.form.bits,
            )
        assert rule is None or not self.form.window, "the settings refuse shared-prefix attention over a window"
        self._slots = cache.num_blocks * cache.block_size
        self._meta_strides = (0, 0)
        self._tail_stride = 0
        self.own: Pair | None = None  # [tokens, kv_heads, head_dim], the batch's keys and values of one layer
        self.matrix: torch.Tensor | None = None  # [head_dim, head_dim] by which channels are mixed
        if isinstance(cache, QuantizedCache):
            if cache.codec.rotates:
                self.matrix = hadamard(head_dim).to(device, dtype)
            keys, values = self.sides(0)
            if keys.meta is not None and values.meta is not None:
                self._meta_strides = (keys.meta.stride(0), values.meta.stride(0))
            self.tail_tokens = cache.tail_tokens
            self._tail_stride = cache.tail_keys[0].stride(0)

    def begin(self, batch: Ragged) -> None:
        self.slots = batch.slots  # [tokens]; negative: a row that only fills up the batch
        self._ragged = batch
        self.spared_tokens = batch.spared_tokens
        self.num_singles = batch.num_singles
        self._launches = self._plan(batch, batch.num_singles)
        chunks = batch.num_sequences > batch.num_singles
        self.own = None
        if (chunks and (self.exact_prefill or self.form.window)) or not (self.form.at_once or self.form.window):
            shape = (batch.num_tokens, self.kv_heads, self.head_dim)
            dtype = self.cache.dtype
            self.own = (
                torch.empty(shape, dtype=dtype, device=batch.slots.device),
                torch.empty(shape, dtype=dtype, device=batch.slots.device),
            )
        # One buffer serves all layers: a layer's parts are merged before the next layer's are written.
        parts = max((launch.parts for launch in self._launches), default=0)
        device = batch.slots.device
        self._partial_out = torch.empty(parts * self.num_heads * self.head_dim, dtype=torch.float32, device=device)
        self._partial_lse = torch.empty(parts * self.num_heads, dtype=torch.float32, device=device)

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        cache = self.cache
        if isinstance(cache, QuantizedCache) and cache.centre is not None:
            k = k - cache.centre[layer]
        if self.matrix is not None:
            q, k, v = q @ self.matrix, k @ self.matrix, v @ self.matrix
        if self.own is not None:
            for own, new in zip(self.own, (k, v), strict=True):
                own.copy_(new)
        if self.form.at_once:
            cache.store(layer, self.slots.long(), k, v)
        else:
            if (tails := self.tails(layer)) is not None:
                keep((k.contiguous(), v.contiguous()), tails, self.slots, 0, self.num_singles)
            self.pack(layer)
        return self.attend(layer, q)

    def sides(self, layer: int) -> tuple[Side, Side]:
        """A layer's keys and values as they lie."""
        cache = self.cache
        if isinstance(cache, QuantizedCache):
            return Side.of(cache.packed_keys[layer]), Side.of(cache.packed_values[layer])
        return Side(cache.key_blocks[layer], None, None), Side(cache.value_blocks[layer], None, None)

    def tails(self, layer: int) -> Pair | None:
        """A layer's exact windows [kv_heads, tails * tail_tokens, head_dim]."""
        cache = self.cache
        if not self.form.window:
            return None
        assert isinstance(cache, QuantizedCache)
        return cache.tail_keys[layer], cache.tail_values[layer]

    def pack(self, layer: int) -> None:
        """Pack what the batch completes, for a codec that is not packed as it is stored."""
        pack(self._ragged, *self.sides(layer), self.form, self.tails(layer), self.own, self.tail_tokens)

    def attend(self, layer: int, q: torch.Tensor) -> torch.Tensor:
        """Attention of queries ``[tokens, num_heads, head_dim]`` whose keys and values are where they are read, as said
        above."""
        out = torch.empty((q.shape[0], self.num_heads * self.head_dim), dtype=q.dtype, device=q.device)
        for launch in self._launches:
            self._launch(launch, layer, q, out)
        tails = self.tails(layer)
        if tails is not None and self.own is not None:
            keep(self.own, tails, self.slots, self.num_singles, len(q))
        if self.matrix is not None:
            out = (out.unflatten(-1, (-1, self.head_dim)) @ self.matrix).flatten(1)
        return out

    def read(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.attend(layer, q)  # packing is a kernel of its own

    def tile_lengths(self, most: int) -> list[int]:
        """The fewest new tokens of a sequence that have each tile, of 2 to this many."""
        return fewest_of_each(self._tile, most)

    def _tile(self, tokens: int) -> Tile:
        """The tile for sequences that bring up to this many new tokens."""
        return tile_for(self.cache.dtype.itemsize, self._padded_dim, tokens * self.group, self.form.bits)

    def _plan(self, ragged: Ragged, num_singles: int) -> list[Launch]:
        launches = []
        if num_singles:
            singles = self._part(0, num_singles, 0, num_singles, 1)
            launches.append(replace(singles, shared=ragged.shared))
        if ragged.num_sequences > num_singles:
            sequences, tokens = ragged.num_sequences - num_singles, ragged.num_tokens - num_singles
            launches.append(self._part(num_singles, sequences, num_singles, tokens, ragged.max_query_len))
        return launches

    def _part(self, first: int, sequences: int, first_token: int, tokens: int, max_query_len: int) -> Launch:
        tile = self._tile(max_query_len)
        singles = max_query_len == 1
        tiles = sequences if singles else tokens // (tile.block_m // self.group) + sequences
        segments = segments_for(tiles * self.kv_heads, self._processors)
        return Launch(first, sequences, first_token, tokens, singles, tile, tiles, segments)

    def _launch(self, launch: Launch, layer: int, q: torch.Tensor, out: torch.Tensor) -> None:
        ragged, tile, segments = self._ragged, launch.tile, launch.segments
        keys, values = self.sides(layer)
        tail_keys, tail_values = self.tails(layer) or (None, None)
        # What single tokens read of their own window is all in the tail.
        reads_own = not launch.singles and (self.exact_prefill or self.form.window)
        own_keys, own_values = self.own if reads_own and self.own is not None else (None, None)
        prefills = ragged.prefills if self.exact_prefill and not launch.singles else None
        covered = part_starts = shared_parts = None
        if (shared := launch.shared) is not None:
            covered, part_starts, shared_parts = shared.covered, shared.part_starts, shared.shared_parts
            self._prefixes(shared, launch.sequences, keys, values, q)
        paged_attention[(launch.tiles * self.kv_heads, segments)](
            q,
            out,
            self._partial_out,
            self._partial_lse,
            keys.codes,
            values.codes,
            keys.meta,
            values.meta,
            keys.scale,
            values.scale,
            tail_keys,
            tail_values,
            own_keys,
            own_values,
            ragged.query_starts,
            ragged.kv_lens,
            ragged.block_starts,
            ragged.blocks,
            ragged.tails if self.form.window else None,
            prefills,
            covered,
            part_starts,
            shared_parts,
            self.scale * math.log2(math.e),
            launch.first,
            launch.first_token,
            launch.sequences,
            launch.tiles,
            segments,
            q.stride(0),
            q.stride(1),
            self._slots,
            *self._meta_strides,
            self._tail_stride,
            SINGLES=launch.singles,
            SPLIT=launch.split,
            WINDOW=self.form.window,
            TAIL_TOKENS=self.tail_tokens,
            **self._constants(tile),
        )
        if launch.split:
            self._merge(launch, out, prefills)

    def _merge(self, launch: Launch, out: torch.Tensor, prefills: torch.Tensor | None) -> None:
        """The results of segments and of shared prefixes become one."""
        ragged, tile, shared = self._ragged, launch.tile, launch.shared
        merge_segments[(launch.tokens, self.num_heads)](
            out,
            self._partial_out,
            self._partial_lse,
            ragged.query_starts,
            ragged.kv_lens,
            prefills,
            None if shared is None else shared.covered,
            None if shared is None else shared.part_starts,
            None if shared is None else shared.shared_parts,
            launch.first,
            launch.first_token,
            launch.sequences,
            launch.segments,
            HEADS=self.num_heads,
            HEAD_DIM=self.head_dim,
            HEAD_P=self._padded_dim,
            BLOCK_Q=tile.block_m // self.group,
            BLOCK_N=tile.block_n,
            SINGLES=launch.singles,
            WINDOW=self.form.window,
            AT_ONCE=MERGED_AT_ONCE,
            num_warps=2,
        )

    def _prefixes(self, shared: SharedRows, rows: int, keys: Side, values: Side, q: torch.Tensor) -> None:
        """What the rows have in common; before their own keys, as it is more work."""
        assert self.passes is not None, "the batch has shared prefixes, and no rule for them was given"
        tile = self.passes.tile(rows)
        shared_prefixes[(shared.num_items, self.kv_heads)](
            q,
            self._partial_out,
            self._partial_lse,
            keys.codes,
            values.codes,
            keys.meta,
            values.meta,
            keys.scale,
            values.scale,
            self._ragged.block_starts,
            self._ragged.blocks,
            shared.part_starts,
            shared.members,
            shared.items,
            self.scale * math.log2(math.e),
            q.stride(0),
            q.stride(1),
            self._slots,
            *self._meta_strides,
            **self._constants(tile),
        )

    def _most_stages(self, tile: Tile) -> int:
        """Of loads that run ahead: their buffers have to fit into 160 KiB of shared memory (compute capability 8.0)."""
        meta = self.sides(0)[0].meta
        if meta is not None and meta.dtype.itemsize == 4:
            # steps are loaded once per number where groups are small: more bytes than the numbers at full precision
            return 1
        return 2 if self.form.window or self.exact_prefill else tile.stages  # two loops over two kinds of memory

    def _constants(self, tile: Tile) -> dict[str, Any]:
        """What the kernels that read the cache are compiled for."""
        return {
            "KV_HEADS": self.kv_heads,
            "GROUP": self.group,
            "HEAD_DIM": self.head_dim,
            "HEAD_P": self._padded_dim,
            "BLOCK_SIZE": self.cache.block_size,
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "PRECISION": self._precision,
            "WIDEN": self.widen,
            **self.form.constants(),
            "num_warps": tile.warps,
            "num_stages": min(tile.stages, self._most_stages(tile)),
        }
