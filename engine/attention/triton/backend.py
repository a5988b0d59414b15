"""The custom kernels behind the contract of ``AttentionBackend``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton

from engine.attention.base import AttentionBackend
from engine.attention.groups import GroupRule
from engine.attention.triton.configs import Tile, segments_for, tile_for
from engine.attention.triton.kernels import merge_segments, paged_attention, shared_prefixes
from engine.attention.triton.prefixes import PrefixPasses
from engine.batch import AttentionBatch, Ragged, SharedRows
from engine.kernels.forms import KernelForm, Side
from engine.kv.cache import KVCache
from engine.kv.codecs.rotation import hadamard
from engine.kv.quantized import QuantizedCache

MERGED_AT_ONCE = 16  # segments one step of the merge reads
INTERPRETED_PROCESSORS = 4  # stands for the device's multiprocessors where the kernels are interpreted


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU (``TRITON_INTERPRET=1`` when it was first imported)."""
    return not isinstance(paged_attention, triton.runtime.JITFunction)


@dataclass(frozen=True, slots=True)
class Launch:
    """Sequences ``[first, first + sequences)`` of the batch, which own the rows from ``first_token``; prefixes some of them share."""

    first: int
    sequences: int
    first_token: int
    tokens: int
    singles: bool
    tile: Tile
    tiles: int
    segments: int
    shared: SharedRows | None = None

    @property
    def split(self) -> bool:
        """Whether there is something to merge."""
        return self.segments > 1 or self.shared is not None

    @property
    def parts(self) -> int:
        """Places that its results take before they are merged."""
        if self.shared is not None:
            return self.shared.num_parts
        return self.segments * (self.first_token + self.tokens) if self.split else 0


class TritonAttention(AttentionBackend):
    """Reads the cache where it lies, packed or not. Single tokens and longer parts of a batch are two launches of the same kernel;
    prefixes that single tokens share are one launch more, before their results are merged.

    With a packed cache, ``attend`` takes queries as the cache's keys are: with their channels mixed, where the codec asks for that.
    """

    ragged = True

    def __init__(
        self, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int, rule: GroupRule | None = None
    ) -> None:
        """``rule``: when rows that share a prefix read it together; None: never."""
        super().__init__(cache, num_heads, kv_heads, head_dim)
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
        if rule is not None:
            self.passes = PrefixPasses(
                rule,
                block_size=cache.block_size,
                group=self.group,
                kv_heads=kv_heads,
                element_bytes=dtype.itemsize,
                padded_dim=self._padded_dim,
                processors=self._processors,
            )
        self.form = KernelForm.of(cache.codec, head_dim)
        self._slots = cache.num_blocks * cache.block_size
        self._meta_stride = 0
        self.matrix: torch.Tensor | None = None  # [head_dim, head_dim] by which channels are mixed
        if isinstance(cache, QuantizedCache):
            if cache.codec.rotates:
                self.matrix = hadamard(head_dim).to(device, dtype)
            meta = cache.packed_keys[0].meta
            self._meta_stride = 0 if meta is None else meta.stride(0)

    def begin(self, batch: AttentionBatch) -> None:
        assert batch.ragged is not None, "this backend reads the ragged form of a batch"
        self.slots = batch.slots  # [tokens]; negative: a row that only fills up the batch
        self._ragged = batch.ragged
        self.spared_tokens = batch.ragged.spared_tokens
        self._launches = self._plan(batch.ragged, batch.num_singles)
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
        cache.store(layer, self.slots.long(), k, v)
        return self.attend(layer, q)

    def sides(self, layer: int) -> tuple[Side, Side]:
        """A layer's keys and values as they lie."""
        cache = self.cache
        if isinstance(cache, QuantizedCache):
            return Side.of(cache.packed_keys[layer]), Side.of(cache.packed_values[layer])
        return Side(cache.key_blocks[layer], None, None), Side(cache.value_blocks[layer], None, None)

    def attend(self, layer: int, q: torch.Tensor) -> torch.Tensor:
        """Attention of queries ``[tokens, num_heads, head_dim]`` whose keys and values are in the cache already."""
        out = torch.empty((q.shape[0], self.num_heads * self.head_dim), dtype=q.dtype, device=q.device)
        for launch in self._launches:
            self._launch(launch, layer, q, out)
        if self.matrix is not None:
            out = (out.unflatten(-1, (-1, self.head_dim)) @ self.matrix).flatten(1)
        return out

    def tile_lengths(self, most: int) -> list[int]:
        """The fewest new tokens of a sequence that have each tile, of 2 to this many."""
        first: dict[Tile, int] = {}
        for tokens in range(2, most + 1):
            first.setdefault(tile_for(self.cache.dtype.itemsize, self._padded_dim, tokens * self.group), tokens)
        return list(first.values())

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
        tile = tile_for(self.cache.dtype.itemsize, self._padded_dim, max_query_len * self.group)
        singles = max_query_len == 1
        tiles = sequences if singles else tokens // (tile.block_m // self.group) + sequences
        segments = segments_for(tiles * self.kv_heads, self._processors)
        return Launch(first, sequences, first_token, tokens, singles, tile, tiles, segments)

    def _launch(self, launch: Launch, layer: int, q: torch.Tensor, out: torch.Tensor) -> None:
        ragged, tile, segments = self._ragged, launch.tile, launch.segments
        keys, values = self.sides(layer)
        covered = part_starts = shared_parts = None
        if (shared := launch.shared) is not None:
            covered, part_starts, shared_parts = shared.covered, shared.part_starts, shared.shared_parts
            self._prefixes(shared, launch.sequences, keys, values, q)
        paged_attention[(launch.tiles, self.kv_heads, segments)](
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
            ragged.query_starts,
            ragged.kv_lens,
            ragged.block_starts,
            ragged.blocks,
            covered,
            part_starts,
            shared_parts,
            self.scale * math.log2(math.e),
            launch.first,
            launch.first_token,
            launch.sequences,
            segments,
            q.stride(0),
            q.stride(1),
            self._slots,
            self._meta_stride,
            SINGLES=launch.singles,
            SPLIT=launch.split,
            **self._constants(tile),
        )
        if launch.split:
            merge_segments[(launch.tokens, self.num_heads)](
                out,
                self._partial_out,
                self._partial_lse,
                ragged.query_starts,
                ragged.kv_lens,
                covered,
                part_starts,
                shared_parts,
                launch.first,
                launch.first_token,
                launch.sequences,
                segments,
                HEADS=self.num_heads,
                HEAD_DIM=self.head_dim,
                HEAD_P=self._padded_dim,
                BLOCK_Q=tile.block_m // self.group,
                BLOCK_N=tile.block_n,
                SINGLES=launch.singles,
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
            self._meta_stride,
            **self._constants(tile),
        )

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
            "FORM": self.form.number,
            "KEY_BITS": self.form.key_bits,
            "VALUE_BITS": self.form.value_bits,
            "GROUP_SIZE": self.form.group,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }
