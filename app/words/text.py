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


PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def three_digits(value: float) -> str:
    return number(float(f"{value:.3g}"))


def scaled(value: float, unit: str) -> str:
    """``538 MB``, ``2.15 GFLOP``: three digits and a decimal prefix."""
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{three_digits(value / size)} {prefix}{unit}"
    return f"{three_digits(value)} {unit}"


def disk_size(count: float) -> str:
    """Bytes in powers of 1,000, as disks are sold."""
    return f"{count:.0f} bytes" if count < 1000 else scaled(count, "B")


def in_sentence(title: str) -> str:
    """A title as it stands within a sentence: ``KV Quantization`` -> ``KV quantization``."""
    return " ".join(word if word.isupper() else word.lower() for word in title.split(" "))


PARTS = ("With and without", "Charts", "Latency", "Requests", "Iterations", "Explained", "KV cache", "Setup")
"""The tabs of a finished run."""
