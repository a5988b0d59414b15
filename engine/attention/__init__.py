"""Attention over the paged KV cache: one contract, swapped implementations."""

from __future__ import annotations

from engine.attention.base import AttentionBackend
from engine.attention.gathered import GatheredAttention
from engine.attention.reference import ReferenceAttention

BACKENDS: dict[str, type[AttentionBackend]] = {"reference": ReferenceAttention, "gathered": GatheredAttention}
"""The backends that any machine has; ``backend_class`` knows those that need more, too."""

__all__ = ["BACKENDS", "AttentionBackend", "backend_class"]


def backend_class(name: str) -> type[AttentionBackend]:
    """The backend of this name. Custom kernels are imported only when asked for.

    Raises:
        ImportError: ``triton`` is asked for and not installed.
    """
    if name == "triton":
        from engine.gpu.attention import TritonAttention

        return TritonAttention
    return BACKENDS[name]
