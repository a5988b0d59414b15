"""Scheduling policies, one small class each: same inputs, same ``Plan`` out."""

from __future__ import annotations

from engine.policies.base import Policy
from engine.policies.chunk_only import ChunkOnly
from engine.policies.orca import Orca
from engine.policies.prefill_first import PrefillFirst
from engine.policies.splitfuse import SplitFuse
from engine.policies.stall_free import StallFree
from engine.policies.static import Static

POLICIES: dict[str, type[Policy]] = {
    "stall-free": StallFree,
    "prefill-first": PrefillFirst,
    "orca": Orca,
    "chunk-only": ChunkOnly,
    "splitfuse": SplitFuse,
    "static": Static,
}

__all__ = ["POLICIES", "Policy"]
