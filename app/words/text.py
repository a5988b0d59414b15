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


PARTS = ("Charts", "Latency", "Requests", "Iterations", "KV cache", "Setup")
"""The tabs of a finished run."""


GLOSSARY = {
    "Prefill": "Computing a prompt's keys and values. All its tokens can be computed at once.",
    "Decode": "Making output tokens, one per step and request; each step reads all the model's weights.",
    "Iteration": "One step of the engine: one pass of the model over the tokens the scheduler chose.",
    "TTFT": "Time to first token: from a request's arrival to its first output token.",
    "ITL": "Inter-token latency: the gap between two output tokens of one request.",
    "TPOT": "Time per output token: the mean gap of one request, first token left out.",
    "E2E": "End-to-end latency: from arrival to the last token.",
    "KV pool": "Memory for the keys and values of every token that running requests may look back at, in blocks.",
    "p50, p99": "The value half of the samples, or 99 in a hundred, do not exceed. A p99 needs about 500 samples; of "
    "a dozen it is nearly the largest.",
}
"""Words of the field in a sentence each."""
