"""What a run's KV pool holds: its capacity in tokens, and in requests of the run's own workload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from store import queries
from store.query import Query


@dataclass(frozen=True)
class PoolRoom:
    """Of one run's KV pool."""

    tokens: int
    mean_request_tokens: float  # prompt and output: as asked while the run goes on, as served once requests have ended
    full_precision_tokens: int  # that the same bytes, exact windows among them, would hold unpacked
    codec: str | None  # None: full precision
    bits: float | None  # of a stored number, metadata included ("effective bits")
    dtype: str = ""  # of the model
    # exact windows beside the pool, one for each request that runs; None: the codec has none
    windows: int | None = None
    window: int = 0  # tokens of one
    full_bits: float | None = None  # of an exact number
    could_hold_tokens: int | None = (
        None  # in the pool's share of the memory, whatever the workload; None: an older run does not say
    )
    could_hold_windows: int | None = None
    why: str | None = None  # the pool is as large as it is: see ``why_in_words``

    @property
    def requests(self) -> float | None:
        """Requests of the mean size that fit at once, each with memory of its own.

        In what the memory could hold, where the pool took no more of it than this workload needs.
        """
        if not self.mean_request_tokens:
            return None
        trimmed = self.is_trimmed
        windows = self.could_hold_windows if trimmed else self.windows
        fit = (self.could_hold_tokens or 0 if trimmed else self.tokens) / self.mean_request_tokens
        return fit if windows is None else min(fit, float(windows))

    @property
    def is_trimmed(self) -> bool:
        """Whether the pool took no more than the workload can fill, and the memory could have held more."""
        return self.why in ("workload", "at_once") and self.could_hold_tokens is not None

    @property
    def why_in_words(self) -> str:
        """Why the pool took what it took; empty for an older run, which does not say."""
        return {
            "memory": "It took all of its share of the free memory (kv_memory_fraction).",
            "kv_blocks": "It took as many blocks as were asked for (kv_blocks).",
            "workload": "It took no more than all requests of this workload can fill.",
            "at_once": "It took no more than the requests that may run at once can fill (max_num_seqs).",
        }.get(self.why or "", "")

    @property
    def bits_served(self) -> float | None:
        """Bits of a number in a request of the mean size, the exact ones of its window among them (papers 4.8); None: no windows."""
        size = self.mean_request_tokens
        if not self.windows or not size or self.bits is None or self.full_bits is None:
            return None
        exact = min(1.0, self.window / size)
        return (1 - exact) * self.bits + exact * self.full_bits

    @property
    def name(self) -> str:
        """Of what is stored: the codec, or the model's format."""
        return self.codec or self.dtype or "full precision"

    def as_dict(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "could_hold_tokens": self.could_hold_tokens if self.is_trimmed else None,
            "requests": self.requests,
            "mean_request_tokens": self.mean_request_tokens or None,
            "name": self.name,
            "bits": self.bits,
        }


def pool_room_of(model: Mapping[str, Any], mean_request_tokens: float | None = None) -> PoolRoom | None:
    """From what a run says of its model; ``mean_request_tokens``: as served, in place of what was asked.

    None where the run does not say what its pool holds.
    """
    packed, tokens = model.get("kv_bytes_per_token"), model.get("kv_capacity_tokens")
    if not packed or not tokens:
        return None
    full = model.get("kv_full_bytes_per_token") or packed
    windows, window = model.get("kv_tails"), int(model.get("kv_window") or 0)
    # of each request beside the pool: its window, and guesses not verified
    kept = int(model.get("kv_tail_tokens") or window)
    bits = model.get("kv_bits")
    return PoolRoom(
        tokens,
        float(mean_request_tokens or model.get("mean_request_tokens") or 0.0),
        round(tokens * packed / full) + (windows or 0) * kept,
        model.get("kv_codec"),
        bits,
        str(model.get("dtype") or ""),
        windows,
        window,
        None if bits is None else bits * full / packed,
        model.get("kv_could_hold_tokens"),
        model.get("kv_could_hold_tails"),
        model.get("kv_pool"),
    )


def pool_room(con: duckdb.DuckDBPyConnection, run_id: str) -> PoolRoom | None:
    """None where the run never got so far as to say what model it had."""
    row = queries.run(con, run_id)
    model = (row or {}).get("model") or {}
    if isinstance(model, str):
        model = json.loads(model)
    asked = "SELECT avg(prompt_tokens + output_tokens) AS mean FROM requests WHERE run_id = $run"
    served = Query(asked, {"run": run_id}).one(con) or {}
    return pool_room_of(model, served.get("mean"))
