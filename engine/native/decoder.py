"""The decoder's forward pass on a CPU with native kernels between the matrix products: the same weights, fewer steps.

One layer::

    norm -> [qkv] -> rope_store -> attend -> [output + x] -> norm -> [gate, up] -> silu_mul -> [down + x]

With a packed cache keys are turned and then stored by the codec.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.attention.base import AttentionBackend
from engine.model.decoder import Decoder
from engine.model.norm import RMSNorm
from engine.native.attention import NativeAttention, number_format
from engine.native.compile import compiled, lanes_for
from engine.native.pointwise import INLINE, ROWS, NormSpec, RopeSpec, norm_rows, rope_store, silu_mul
from engine.native.team import most_threads


class NativeDecoder:
    """A ``Decoder``'s weights behind the same two calls."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend) -> None:
        shape = decoder.shape
        self._decoder, self.shape, self.layers = decoder, shape, decoder.layers
        self._stores = isinstance(attention, NativeAttention) and attention.cache.codec is None
        self._slots_a_head = attention.cache.num_blocks * attention.cache.block_size
        kind = number_format(decoder.dtype)
        self._norm = compiled(norm_rows, NormSpec(kind, shape.hidden, shape.norm_eps, lanes_for(shape.hidden)))
        self._gate = compiled(silu_mul, kind, shape.intermediate, lanes_for(shape.intermediate))
        heads = (shape.heads, shape.kv_heads, shape.head_dim)
        eps = shape.norm_eps if shape.qk_norm else None
        lanes = lanes_for(shape.head_dim // 2)
        self._turn = compiled(rope_store, RopeSpec(kind, *heads, lanes, eps, self._stores))
        self._threads = 1

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor, attention: AttentionBackend) -> torch.Tensor:
        """token_ids, positions: [T] int64 -> [T, hidden], the residual stream after the last layer."""
        self._threads = most_threads()
        x = F.embedding(token_ids, self._decoder.embedding)
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv(self._normed(x, layer.input_norm))
            x = layer.output.add_to(x, self._attended(number, qkv, positions, attention))
            x = layer.down.add_to(x, self._gated(layer.gate_up(self._normed(x, layer.mlp_norm))))
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [R, hidden] rows of what ``forward`` returned -> [R, vocab] float32."""
        return self._decoder.head(self._normed(hidden, self._decoder.norm)).float()

    def _normed(self, x: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
        out = torch.empty_like(x)
        rows = len(x)
        places = (x.data_ptr(), norm.weight.data_ptr(), out.data_ptr())
        self._norm(self._threads_for(x.numel()), -(-rows // ROWS), rows, *places)
        return out

    def _gated(self, both: torch.Tensor) -> torch.Tensor:
        rows = len(both)
        out = torch.empty(rows, self.shape.intermediate, dtype=both.dtype)
        self._gate(self._threads_for(out.numel()), rows, both.data_ptr(), out.data_ptr())
        return out

    def _attended(
        self, number: int, qkv: torch.Tensor, positions: torch.Tensor, attention: AttentionBackend
    ) -> torch.Tensor:
        """[T, heads * head_dim] of one layer, whose keys and values are in the cache from here on."""
        shape, rows, cache = self.shape, len(qkv), attention.cache
        norm = self.layers[number].qk_norm
        weights = 0 if norm is None else norm.weight.data_ptr()
        turned = shape.heads if self._stores else shape.heads + shape.kv_heads
        q = torch.empty(rows, turned, shape.head_dim, dtype=qkv.dtype)
        slots = keys = values = 0
        if self._stores:
            assert isinstance(attention, NativeAttention)
            slots = attention.slots.data_ptr()
            keys, values = cache.key_blocks[number].data_ptr(), cache.value_blocks[number].data_ptr()
        self._turn(
            self._threads_for(qkv.numel()),
            rows,
            self._slots_a_head,
            positions.data_ptr(),
            slots,
            qkv.data_ptr(),
            self._decoder.rope.table.data_ptr(),
            weights,
            q.data_ptr(),
            keys,
            values,
        )
        if self._stores:
            assert isinstance(attention, NativeAttention)
            return attention.attend(number, q)
        v = qkv.view(rows, -1, shape.head_dim)[:, turned:]
        q, k = q.split_with_sizes((shape.heads, shape.kv_heads), 1)
        return attention.forward(number, q, k, v)

    def _threads_for(self, numbers: int) -> int:
        return self._threads if numbers > INLINE else 1
