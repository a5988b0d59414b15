"""Settings under a name: those of published systems, and those a person saved.

A preset says how requests are served, as far as it is about the scheduler and the techniques; model, device, memory and
the workload stay as they are. It stands for what a system is known for, not for its every default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.settings import controls as book
from engine.config import EngineConfig, apply_overrides


@dataclass(frozen=True)
class Preset:
    """Settings of a system; a technique that they do not name is off, and the policy is the usual one."""

    title: str
    about: str
    settings: Mapping[str, str]


PRESETS: Mapping[str, Preset] = {
    "vllm": Preset(
        "as vLLM does",
        "Chunked prefill beside the decodes, and prefixes found again in the pool.",
        {"chunked_prefill": "on", "prefix_sharing": "on"},
    ),
    "vllm-2023": Preset(
        "as vLLM did in 2023", "Paged memory; new prompts run whole, before the decodes.", {"policy": "prefill-first"}
    ),
    "orca": Preset("as Orca did", "Whole prompts join the decodes of an iteration.", {"policy": "orca"}),
    "static": Preset(
        "as static batching did", "A batch is served to its end before the next begins.", {"policy": "static"}
    ),
    "sarathi": Preset(
        "as Sarathi-Serve did",
        "Stall-free: decodes first, prompt chunks in what the token budget leaves.",
        {"chunked_prefill": "on", "policy": "stall-free"},
    ),
    "splitfuse": Preset(
        "as DeepSpeed-FastGen did",
        "Every pass is filled to the token budget.",
        {"chunked_prefill": "on", "policy": "splitfuse"},
    ),
    "hydragen": Preset(
        "as Hydragen did",
        "Decoding requests read the blocks they share in one pass.",
        {"prefix_sharing": "on", "prefix_sharing.attention": "one-level"},
    ),
    "batchllm": Preset(
        "as BatchLLM did",
        "Requests with one prefix run together, admitted by the memory they will need.",
        {"chunked_prefill": "on", "prefix_sharing.order": "grouped", "prefix_sharing.admission": "memory"},
    ),
    "smartspec": Preset(
        "as SmartSpec did",
        "Tokens are guessed as far as that promises to pay.",
        {"speculation": "on", "speculation.control": "smart"},
    ),
    "kivi": Preset("as KIVI did", "Keys and values in 2 bits, the latest exact.", {"kv_quantization.codec": "kivi"}),
    "plain": Preset("every technique off", "New prompts run first and whole; nothing is shared or guessed.", {}),
}
"""By a short name, which never changes."""


def preset_values(base: EngineConfig, preset: Preset) -> dict[str, Any]:
    """What the controls hold with a preset on top of a scenario's settings: techniques, their parts and the policy."""
    off = {technique.path: "off" for technique in book.techniques()} | {"policy": "none"}
    plain = apply_overrides(base, off)
    served = apply_overrides(plain, preset.settings)
    values: dict[str, Any] = {"policy": served.policy}
    for technique in book.techniques():
        values[technique.path] = book.value_of(served, technique.path)
        if values[technique.path]:
            values |= {part.path: book.value_of(served, part.path) for part in book.parts_of(technique)}
    return values
