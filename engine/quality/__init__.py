"""What a packed KV cache costs in quality, on this model's real weights, against full precision."""

from __future__ import annotations

from engine.quality.meter import QualityMeter, QualitySpec

__all__ = ["QualityMeter", "QualitySpec"]
