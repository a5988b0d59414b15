"""The attention backends by name, and the executor that each comes with.

To add one: its class behind ``AttentionBackend``, an entry here, and its name in ``EngineConfig.attention_backend``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from engine.attention import PLAIN, packed
from engine.attention.base import AttentionBackend
from engine.attention.groups import GroupRule
from engine.executor import Executor
from engine.kv.cache import KVCache
from engine.model.decoder import Decoder


class MakesAttention(Protocol):
    """From a cache and the heads that read it to attention over it."""

    def __call__(
        self,
        cache: KVCache,
        num_heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        exact_prefill: bool = False,
        rule: GroupRule | None = None,
    ) -> AttentionBackend:
        """``exact_prefill``: a prompt's chunk reads its own keys and values as they were before packing. ``rule``: when
        rows that share a prefix read it together."""
        ...


class Backend(NamedTuple):
    """Classes that work together."""

    attend: type[AttentionBackend]
    attention: MakesAttention
    executor: type[Executor]


def _plain(name: str) -> Backend:
    def attention(cache: KVCache, *heads: int, **how: Any) -> AttentionBackend:
        return packed.make_attention(name, cache, *heads, **how)

    return Backend(PLAIN[name], attention, Executor)


def _triton() -> Backend:
    from engine.gpu.attention import TritonAttention  # Triton may not be installed
    from engine.gpu.executor import GpuExecutor

    def attention(
        cache: KVCache,
        num_heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        exact_prefill: bool = False,
        rule: GroupRule | None = None,
    ) -> AttentionBackend:
        # It centres and mixes on its own; at full precision there is nothing that prefills could read otherwise.
        exact = exact_prefill and cache.codec is not None
        return TritonAttention(cache, num_heads, kv_heads, head_dim, rule, exact_prefill=exact)

    return Backend(TritonAttention, attention, GpuExecutor)


def _native() -> Backend:
    from engine.native.attention import NativeAttention, make_attention  # llvmlite may not be installed
    from engine.native.executor import NativeExecutor

    return Backend(NativeAttention, make_attention, NativeExecutor)


BACKENDS: Mapping[str, Callable[[], Backend]] = {
    "reference": lambda: _plain("reference"),
    "gathered": lambda: _plain("gathered"),
    "native": _native,
    "triton": _triton,
}
"""The registry. Custom kernels are imported only when they are asked for."""


def make_attention(backend: str, cache: KVCache, num_heads: int, kv_heads: int, head_dim: int, **how: Any) -> Any:
    """The backend of this name over a cache, packed or not; ``how``: as ``MakesAttention``.

    Raises:
        ImportError: ``triton`` or ``native`` is asked for and what compiles it is not installed.
    """
    return BACKENDS[backend]().attention(cache, num_heads, kv_heads, head_dim, **how)


def make_executor(backend: str, decoder: Decoder, attention: AttentionBackend, *, draws_on_device: bool) -> Executor:
    """The executor that goes with ``attention``, which ``make_attention`` made for the same name."""
    return BACKENDS[backend]().executor(decoder, attention, draws_on_device=draws_on_device)
