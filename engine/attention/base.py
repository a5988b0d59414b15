"""What an attention backend is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from engine.batch import AttentionBatch
from engine.kv.cache import KVCache

if TYPE_CHECKING:
    from engine.gpu.attention.prefixes import PrefixPasses


class AttentionBackend(ABC):
    """Stores a batch's keys and values in the cache and attends to everything each token may see.

    ``ragged``: the backend reads ``AttentionBatch.ragged`` and not its lists of singles and chunks.
    """

    ragged = False
    # over shared prefixes, planned with the batch; for a backend that reads its ragged form
    passes: PrefixPasses | None = None
    exact_prefill = False  # a prompt's chunk attends to its own keys and values as they were before packing
    tail_tokens = 0  # of each sequence's exact tail, where the cache has one and the backend reads the ragged form

    def __init__(self, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int) -> None:
        self.cache = cache
        self.num_heads = num_heads
        self.kv_heads = kv_heads
        self.group = num_heads // kv_heads  # query heads that share one KV head
        self.head_dim = head_dim
        self.scale = head_dim**-0.5
        self.spared_tokens = (
            0  # keys per layer that this batch does not read again, because requests that share them read them once
        )

    @abstractmethod
    def begin(self, batch: AttentionBatch) -> None:
        """Take in the next batch; called once before its first layer."""

    @abstractmethod
    def forward(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """One layer's causal attention.

        Args:
            layer: number of the layer.
            q: queries after RoPE ``[tokens, num_heads, head_dim]``.
            k, v: new keys (after RoPE) and values ``[tokens, kv_heads, head_dim]``; stored in the cache first.

        Returns:
            ``[tokens, num_heads * head_dim]`` in q's dtype. Sums and softmax are computed in fp32; a backend may round scores
            and weights to q's dtype once, as ordinary half-precision attention does.
        """
