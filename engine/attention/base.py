"""What an attention backend is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from engine.kv.cache import KVCache


class AttentionBackend(ABC):
    """Stores a batch's keys and values in the cache and attends to everything each token may see."""

    exact_prefill = False  # a prompt's chunk attends to its own keys and values as they were before packing

    def __init__(self, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int) -> None:
        self.cache = cache
        self.num_heads = num_heads
        self.kv_heads = kv_heads
        self.group = num_heads // kv_heads  # query heads that share one KV head
        self.head_dim = head_dim
        self.scale = head_dim**-0.5
        self.spared_tokens = (
            0  # keys per layer that this batch does not read again: rows that share them read them once
        )
        self.padded_tokens = 0  # rows of this batch that are computed for nothing, to make a rectangle
        self.padded_keys = 0  # keys per layer that are read for nothing

    @abstractmethod
    def begin(self, batch: Any) -> None:
        """Take in the next batch, in the form that its executor lays out; called once before its first layer."""

    @abstractmethod
    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """One layer's causal attention.

        Args:
            layer: number of the layer.
            q: queries after RoPE ``[tokens, num_heads, head_dim]``.
            k, v: new keys (after RoPE) and values ``[tokens, kv_heads, head_dim]``; stored in the cache first.

        Returns:
            ``[tokens, num_heads * head_dim]`` in q's dtype. Sums and softmax are computed in fp32; a backend may round
            scores and weights to q's dtype once, as ordinary half-precision attention does.
        """

    def read(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """What ``engine.start.reading_cost`` times as reading the cache: all of ``forward``, where storing is no step
        of its own."""
        return self.forward(layer, q, k, v)
