"""How figures and titles are written, and the words that stand everywhere."""

from __future__ import annotations

from typing import Any

PROVENANCE = {
    "measured": "Measured: read from a clock or a counter.",
    "derived": "Derived: computed from measured values.",
    "modelled": "Modelled: computed from a formula, not observed.",
    "simulated": "Simulated: no such thing happened on this machine.",
}


def number(value: Any) -> str:
    """A figure in four digits, whole from 1,000 on and never in powers of ten for its size; a dash where there is
    none.
    """
    if not isinstance(value, int | float) or value != value:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def in_sentence(title: str) -> str:
    """A title as it stands within a sentence: ``KV Quantization`` -> ``KV quantization``."""
    return " ".join(word if word.isupper() else word.lower() for word in title.split(" "))


PARTS = ("With and without", "Charts", "Latency", "Requests", "Iterations", "Explained", "KV cache", "Setup")
"""The tabs of a finished run."""
