"""Attention by custom kernels: prefill chunks, decodes and draft verification in one family, straight from the paged
cache."""

from engine.gpu.attention.backend import TritonAttention

__all__ = ["TritonAttention"]
