"""Bytes of the KV cache, from what a run says of its model: 2 x layers x KV heads x head size x bits / 8 for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KVBytes:
    """How a run's model and codec store keys and values."""

    layers: int
    kv_heads: int
    head_dim: int
    bits: float  # of a stored number, with all that is stored beside it
    per_token: float  # bytes, as the run recorded it
    name: str  # of the codec, or of the model's format
    capacity_tokens: int | None  # of the run's pool
    window_bytes: float  # of each request beside the pool, in full precision
    windows: int | None  # such places; None: the codec has none

    def of(self, tokens: int, requests: int = 1) -> float:
        """Bytes of that many requests of so many tokens."""
        return requests * (self.per_token * tokens + self.window_bytes)

    def at_once(self, tokens: int) -> int | None:
        """Requests of so many tokens that the run's pool holds, sharing nothing; None where its size is not known."""
        if self.capacity_tokens is None or tokens < 1:
            return None
        fit = self.capacity_tokens // tokens
        return fit if self.windows is None else min(fit, self.windows)


def kv_bytes(model: Mapping[str, Any]) -> KVBytes | None:
    """From a run's ``model``; None where an older run does not say enough."""
    needed = ("layers", "kv_heads", "head_dim", "kv_bits", "kv_bytes_per_token")
    if not all(isinstance(model.get(name), int | float) and model[name] > 0 for name in needed):
        return None
    full = float(model.get("kv_full_bytes_per_token") or model["kv_bytes_per_token"])
    return KVBytes(
        layers=int(model["layers"]),
        kv_heads=int(model["kv_heads"]),
        head_dim=int(model["head_dim"]),
        bits=float(model["kv_bits"]),
        per_token=float(model["kv_bytes_per_token"]),
        name=str(model.get("kv_codec") or model.get("dtype") or "full precision"),
        capacity_tokens=model.get("kv_capacity_tokens"),
        window_bytes=full * int(model.get("kv_tail_tokens") or 0),
        windows=model.get("kv_tails"),
    )
