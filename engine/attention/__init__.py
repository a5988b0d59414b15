"""Attention over the paged KV cache: one contract, swapped implementations."""

from __future__ import annotations

from engine.attention.base import AttentionBackend
from engine.attention.gathered import GatheredAttention
from engine.attention.reference import ReferenceAttention

BACKENDS: dict[str, type[AttentionBackend]] = {"reference": ReferenceAttention, "gathered": GatheredAttention}

__all__ = ["BACKENDS", "AttentionBackend"]
