"""Attention over the paged KV cache: one contract, swapped implementations. These run on any device;
``engine.backends`` names all."""

from __future__ import annotations

from engine.attention.base import AttentionBackend
from engine.attention.gathered import GatheredAttention
from engine.attention.reference import ReferenceAttention

PLAIN: dict[str, type[AttentionBackend]] = {"reference": ReferenceAttention, "gathered": GatheredAttention}

__all__ = ["PLAIN", "AttentionBackend"]
