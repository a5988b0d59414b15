"""The settings of the techniques, a file each. A technique is added as a file here and a field of ``EngineConfig``."""

from __future__ import annotations

from engine.config.techniques.chunked_prefill import ChunkedPrefill
from engine.config.techniques.far_pool import FarPool
from engine.config.techniques.kv_layout import KVLayout
from engine.config.techniques.kv_quantization import KVQuantization
from engine.config.techniques.kv_tiers import KVTiers
from engine.config.techniques.placement import Placement
from engine.config.techniques.preemption import Preemption
from engine.config.techniques.prefix_sharing import PrefixSharing
from engine.config.techniques.speculation import Speculation
from engine.config.techniques.time_to_live import TimeToLive

__all__ = [
    "ChunkedPrefill",
    "FarPool",
    "KVLayout",
    "KVQuantization",
    "KVTiers",
    "Placement",
    "Preemption",
    "PrefixSharing",
    "Speculation",
    "TimeToLive",
]
