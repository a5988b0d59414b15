"""The custom kernels behind the contract of ``AttentionBackend``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton

from engine.attention.base import AttentionBackend
from engine.attention.triton.configs import Tile, segments_for, tile_for
from engine.attention.triton.kernels import merge_segments, paged_attention
from engine.batch import AttentionBatch, Ragged
from engine.kv.cache import KVCache

MERGED_AT_ONCE = 16  # segments one step of the merge reads
INTERPRETED_PROCESSORS = 4  # stands for the device's multiprocessors where the kernels are interpreted


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU (``TRITON_INTERPRET=1`` when it was first imported)."""
    return not isinstance(paged_attention, triton.runtime.JITFunction)


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: sequences ``[first, first + sequences)`` of the batch, which own the rows from ``first_token``."""

    first: int
    sequences: int
    first_token: int
    tokens: int
    singles: bool
    tile: Tile
    tiles: int
    segments: int


class TritonAttention(AttentionBackend):
    """Reads the cache where it lies. Single tokens and longer parts of a batch are two launches of the same kernel."""

    ragged = True

    def __init__(self, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__(cache, num_heads, kv_heads, head_dim)
        device, dtype = cache.data.device, cache.data.dtype
        self._padded_dim = triton.next_power_of_2(head_dim)
        # Of float32: three products of its halves, right in all but the last bits. Ignored for 16-bit numbers.
        self._precision = "tf32x3"
        self._widen = interpreted() and dtype == torch.bfloat16
        self._processors = (
            torch.cuda.get_device_properties(device).multi_processor_count
            if device.type == "cuda"
            else INTERPRETED_PROCESSORS
        )
        self._kv_stride = cache.num_blocks * cache.block_size * head_dim

    def begin(self, batch: AttentionBatch) -> None:
        assert batch.ragged is not None, "this backend reads the ragged form of a batch"
        self.slots = batch.slots  # [tokens]; negative: a row that only fills up the batch
        self._ragged = batch.ragged
        self._launches = self._plan(batch.ragged, batch.num_singles)
        split = [launch for launch in self._launches if launch.segments > 1]
        # One buffer serves all layers: a layer's parts are merged before the next layer's are written.
        parts = max((launch.segments * (launch.first_token + launch.tokens) for launch in split), default=0)
        device = batch.slots.device
        self._partial_out = torch.empty(parts * self.num_heads * self.head_dim, dtype=torch.float32, device=device)
        self._partial_lse = torch.empty(parts * self.num_heads, dtype=torch.float32, device=device)

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.cache.store(layer, self.slots.long(), k, v)
        return self.attend(layer, q)

    def attend(self, layer: int, q: torch.Tensor) -> torch.Tensor:
        """Attention of queries ``[tokens, num_heads, head_dim]`` whose keys and values are in the cache already."""
        out = torch.empty((q.shape[0], self.num_heads * self.head_dim), dtype=q.dtype, device=q.device)
        for launch in self._launches:
            self._launch(launch, layer, q, out)
        return out

    def _plan(self, ragged: Ragged, num_singles: int) -> list[Launch]:
        launches = []
        if num_singles:
            launches.append(self._part(0, num_singles, 0, num_singles, 1))
        if ragged.num_sequences > num_singles:
            sequences, tokens = ragged.num_sequences - num_singles, ragged.num_tokens - num_singles
            launches.append(self._part(num_singles, sequences, num_singles, tokens, ragged.max_query_len))
        return launches

    def _part(self, first: int, sequences: int, first_token: int, tokens: int, max_query_len: int) -> Launch:
        tile = tile_for(self.cache.data.dtype.itemsize, self._padded_dim, max_query_len * self.group)
        singles = max_query_len == 1
        tiles = sequences if singles else tokens // (tile.block_m // self.group) + sequences
        segments = segments_for(tiles * self.kv_heads, self._processors)
        return Launch(first, sequences, first_token, tokens, singles, tile, tiles, segments)

    def _launch(self, launch: Launch, layer: int, q: torch.Tensor, out: torch.Tensor) -> None:
        ragged, tile, segments = self._ragged, launch.tile, launch.segments
        paged_attention[(launch.tiles, self.kv_heads, segments)](
            q,
            out,
            self._partial_out,
            self._partial_lse,
            self.cache.key_blocks[layer],
            self.cache.value_blocks[layer],
            ragged.query_starts,
            ragged.kv_lens,
            ragged.block_starts,
            ragged.blocks,
            self.scale * math.log2(math.e),
            launch.first,
            launch.first_token,
            launch.sequences,
            segments,
            q.stride(0),
            q.stride(1),
            self._kv_stride,
            KV_HEADS=self.kv_heads,
            GROUP=self.group,
            HEAD_DIM=self.head_dim,
            HEAD_P=self._padded_dim,
            BLOCK_SIZE=self.cache.block_size,
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            SINGLES=launch.singles,
            SPLIT=segments > 1,
            PRECISION=self._precision,
            WIDEN=self._widen,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        if segments > 1:
            merge_segments[(launch.tokens, self.num_heads)](
                out,
                self._partial_out,
                self._partial_lse,
                ragged.query_starts,
                ragged.kv_lens,
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
