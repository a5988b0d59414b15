"""The decoder's forward pass by fused kernels: the same weights, fewer and larger steps. For GPUs.

One layer is four matrix products (torch) and these kernels between them::

    add_norm -> [qkv] -> rope_store -> attention -> [output] -> add_norm -> [gate, up] -> silu_mul -> [down]

With a packed cache ``rope_pack`` takes the place of ``rope_store``, or ``pack`` comes behind it
(``engine.gpu.kernels.pack``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.gpu.attention import TritonAttention
from engine.gpu.kernels.activation import silu_mul
from engine.gpu.kernels.norm import add_norm
from engine.gpu.kernels.rope_pack import rope_pack
from engine.gpu.kernels.rope_store import rope_store
from engine.kv.quantized import QuantizedCache
from engine.model.decoder import Decoder


class FusedDecoder:
    """A ``Decoder``'s weights behind the same two calls. The attention must be ``TritonAttention``: it shares the
    cache."""

    def __init__(self, decoder: Decoder) -> None:
        self.shape = decoder.shape
        self.layers = decoder.layers
        self._embedding = decoder.embedding
        self._norm = decoder.norm
        self._head = decoder.head
        self._table = decoder.rope.table

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor, attention: TritonAttention) -> torch.Tensor:
        """token_ids, positions: [T] int32 -> [T, hidden], the residual stream after the last layer."""
        x = F.embedding(token_ids, self._embedding)
        delta: torch.Tensor | None = None
        for number, layer in enumerate(self.layers):
            qkv = layer.qkv(add_norm(x, delta, layer.input_norm.weight, layer.input_norm.eps))
            q = self._store(number, qkv, positions, attention)
            delta = layer.output(attention.attend(number, q))
            hidden = add_norm(x, delta, layer.mlp_norm.weight, layer.mlp_norm.eps)
            delta = layer.down(silu_mul(layer.gate_up(hidden)))
        return x if delta is None else x.add_(delta)

    def _store(
        self, number: int, qkv: torch.Tensor, positions: torch.Tensor, attention: TritonAttention
    ) -> torch.Tensor:
        """Rotated queries [T, heads, head_dim] of one layer, whose keys and values are in the cache from here on."""
        cache, norm, heads = attention.cache, self.layers[number].qk_norm, self.shape.heads
        weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
        where = (qkv, positions, attention.slots, self._table)
        if not isinstance(cache, QuantizedCache):
            return rope_store(*where, cache.key_blocks[number], cache.value_blocks[number], heads, weight, eps)
        if not attention.form.at_once:
            keys, values = attention.tails(number) or (None, None)
            singles = attention.num_singles
            q = rope_store(*where, keys, values, heads, weight, eps, own=attention.own, stored=singles)
            attention.pack(number)
            return q
        return rope_pack(
            *where,
            *attention.sides(number),
            attention.form,
            heads,
            weight,
            eps,
            None if cache.centre is None else cache.centre[number],
            attention.matrix,
            attention.widen,
            own=attention.own,
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [R, hidden] rows of what ``forward`` returned -> [R, vocab] in the model's dtype."""
        return self._head(add_norm(hidden, None, self._norm.weight, self._norm.eps))
