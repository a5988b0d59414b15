"""Attention over a packed cache: which backend reads a codec, and what has to be done around it."""

from __future__ import annotations

import torch

from engine.attention import PLAIN
from engine.attention.base import AttentionBackend
from engine.attention.far import FarAttention
from engine.attention.gathered import ChunkRows, GatheredAttention
from engine.attention.groups import GroupRule
from engine.attention.shared import SharedPrefixAttention
from engine.attention.windowed import WindowedAttention
from engine.batch import AttentionBatch
from engine.config.combined_at_start import unread_codec
from engine.config.errors import EngineError
from engine.kv.cache import KVCache, Rows
from engine.kv.codecs import Codec
from engine.kv.codecs.rotation import hadamard
from engine.kv.quantized import QuantizedCache


class ExactPrefill(GatheredAttention):
    """Gathered attention in which a prompt's chunk attends to its own keys and values as they were before packing."""

    exact_prefill = True

    def chunk_side(self, rows: Rows, chunk: ChunkRows, own: torch.Tensor) -> torch.Tensor:
        dense = super().chunk_side(rows, chunk, own)
        if chunk.is_prefill:
            dense[0, :, chunk.kv_len - (chunk.stop - chunk.start) :] = own[chunk.start : chunk.stop].transpose(0, 1)
        return dense


class ExactSharedPrefill(SharedPrefixAttention, ExactPrefill):
    pass


class ExactWindowedPrefill(WindowedAttention):
    exact_prefill = True


class Conditioned(AttentionBackend):
    """A backend whose cache holds centred keys, or mixed channels.

    A constant subtracted from all keys shifts all scores of a query alike. Where channels are mixed, queries are mixed
    like keys, and the output is mixed back.
    """

    def __init__(self, inner: AttentionBackend, centre: torch.Tensor | None, *, rotates: bool) -> None:
        """``centre``: [layers, kv_heads, head_dim], or None."""
        super().__init__(inner.cache, inner.num_heads, inner.kv_heads, inner.head_dim)
        self.inner = inner
        self._centre = centre
        self._matrix = hadamard(inner.head_dim).to(inner.cache.device, inner.cache.dtype) if rotates else None

    def begin(self, batch: AttentionBatch) -> None:
        self.inner.begin(batch)
        self.spared_tokens = self.inner.spared_tokens

    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if self._centre is not None:
            k = k - self._centre[layer]
        if self._matrix is None:
            return self.inner.forward(layer, q, k, v)
        mixed = self.inner.forward(layer, q @ self._matrix, k @ self._matrix, v @ self._matrix)
        return (mixed.unflatten(-1, (-1, self.head_dim)) @ self._matrix).flatten(1)


def obstacle(backend: str, codec: Codec, *, exact_prefill: bool) -> str | None:
    """Why this backend cannot read the codec; None where it can."""
    return unread_codec(backend, codec.name, window=codec.window, exact_prefill=exact_prefill)


def check_reads(backend: str, codec: Codec, *, exact_prefill: bool) -> None:
    """Raises EngineError where a backend that was asked for by name cannot read the codec."""
    problem = obstacle(backend, codec, exact_prefill=exact_prefill)
    if problem:
        raise EngineError("unread-codec", "attention_backend", backend, f"{problem}.", "Set it to auto or gathered.")


def make_attention(
    backend: str,
    cache: KVCache,
    num_heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    exact_prefill: bool = False,
    rule: GroupRule | None = None,
) -> AttentionBackend:
    """The plain backend of this name over a cache, packed or not; ``rule``: when rows that share a prefix read it
    together."""
    codec = cache.codec
    if cache.far is not None:
        return conditioned(FarAttention(cache, num_heads, kv_heads, head_dim))
    if rule is not None:
        shared = ExactSharedPrefill if exact_prefill else SharedPrefixAttention
        return conditioned(shared(cache, num_heads, kv_heads, head_dim, rule))
    kind = PLAIN[backend]
    if codec is None:
        return kind(cache, num_heads, kv_heads, head_dim)
    if codec.window:
        kind = ExactWindowedPrefill if exact_prefill else WindowedAttention
    elif exact_prefill:
        kind = ExactPrefill
    return conditioned(kind(cache, num_heads, kv_heads, head_dim))


def conditioned(attention: AttentionBackend) -> AttentionBackend:
    """``attention`` with what its cache's codec asks to be done to queries, keys and values, if anything."""
    cache = attention.cache
    if not isinstance(cache, QuantizedCache) or (cache.centre is None and not cache.codec.rotates):
        return attention
    return Conditioned(attention, cache.centre, rotates=cache.codec.rotates)
