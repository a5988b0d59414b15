"""Which techniques cannot be combined, and the reason a person is shown.

What the settings alone tell is refused as they are written (``refusal``, with a reason for each rule). What depends on
the token budget or on the attention backend of the device is refused before the run starts
(``engine.config.combined_at_start``). What one technique's own settings rule out among themselves is said in its class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.config.techniques import (
    FarPool,
    KVLayout,
    KVQuantization,
    KVTiers,
    Placement,
    Preemption,
    PrefixSharing,
    Speculation,
    TimeToLive,
)

Rule = Callable[[Any, Mapping[str, Any]], str | None]
"""A setting's value and the settings before it in ``EngineConfig``, by name -> why they cannot be combined; None where
they can."""


def refusal(field: str, value: Any, others: Mapping[str, Any]) -> str | None:
    """Why ``value`` of ``field`` cannot stand beside ``others``: the first rule that is broken; None where all hold."""
    return next((reason for rule in RULES[field] if (reason := rule(value, others)) is not None), None)


def _shared_attention_backend(sharing: PrefixSharing | None, others: Mapping[str, Any]) -> str | None:
    backend = others.get("attention_backend")
    if sharing is None or sharing.attention == "off" or backend in (None, "auto", "gathered", "triton"):
        return None
    return f"shared-prefix attention needs attention_backend gathered or triton, not {backend}"


def _padded_verification_of_packed(asked: KVQuantization | None, others: Mapping[str, Any]) -> str | None:
    speculation: Speculation | None = others.get("speculation")
    if asked is None or speculation is None or speculation.verification == "ragged":
        return None
    return f"speculation.verification {speculation.verification} does not read a packed cache: set it to ragged"


def _shared_blocks(size: int, others: Mapping[str, Any]) -> str | None:
    sharing: PrefixSharing | None = others.get("prefix_sharing")
    if sharing is None:
        return None
    if size & (size - 1):
        return f"prefix_sharing needs a block_size that is a power of two, not {size}"
    if sharing.attention != "off" and sharing.min_prefix_tokens < size:
        return (
            f"prefix_sharing.min_prefix_tokens ({sharing.min_prefix_tokens}) is less than one block of {size} tokens: "
            "only whole blocks are shared"
        )
    return None


def _packed_blocks(size: int, others: Mapping[str, Any]) -> str | None:
    asked: KVQuantization | None = others.get("kv_quantization")
    if asked is None or asked.codec != "kivi":
        return None
    per_channel = "channel" in (asked.key_axis, asked.value_axis)
    if per_channel and asked.group is not None and size % asked.group:
        return f"the group of {asked.group} tokens (kv_quantization.group) does not divide block_size ({size})"
    if asked.residual % size:
        return (
            f"the exact window of {asked.residual} tokens (kv_quantization.residual) is not a multiple of block_size "
            f"({size}): whole blocks are packed"
        )
    sharing: PrefixSharing | None = others.get("prefix_sharing")
    if sharing is not None and sharing.attention != "off":
        return "prefix_sharing.attention does not read an exact window: set it to off, or choose another codec"
    return None


def _nobody_preempted(asked: Preemption | None, others: Mapping[str, Any]) -> str | None:
    sharing: PrefixSharing | None = others.get("prefix_sharing")
    if asked is None or sharing is None:
        return None
    if sharing.admission == "memory":
        return (
            "prefix_sharing.admission memory admits a request only where its final size fits, so nobody is preempted: "
            "set it to on-demand, or preemption off"
        )
    if asked.redraws and sharing.order == "grouped":
        return (
            "prefix_sharing.order grouped runs requests of one prefix together, and preemption.priorities "
            f"{asked.priorities} pulls them apart: set order to arrival or priorities to fixed"
        )
    return None


def _ranges_of_their_own(asked: KVLayout | None, others: Mapping[str, Any]) -> str | None:
    if asked is None or not asked.is_contiguous or others.get("prefix_sharing") is None:
        return None
    return (
        f"kv_layout.kind {asked.kind} gives each request one piece of memory, and a shared block would have to lie in "
        "several: set kv_layout.kind to paged, or prefix_sharing off"
    )


def _apart(asked: Placement | None, others: Mapping[str, Any]) -> str | None:
    """Two halves, and what is not served with them."""
    if asked is None or not asked.is_apart:
        return None
    device, threads, codec = str(others.get("device")), others.get("threads"), others.get("kv_quantization")
    what = f"placement.kind {asked.kind}"
    if device.startswith("cuda"):
        why = "two processes share memory of the host" if asked.is_partitioned else HANDED_OVER
        return f"{what} is served on a CPU: {why}. Set device to cpu"
    if threads is not None and threads < 2:
        return f"{what} needs a thread for each half: set threads to 2 or more, or leave it empty"
    if threads is not None and asked.prefill_threads is not None and asked.prefill_threads >= threads:
        return (
            f"placement.prefill_threads ({asked.prefill_threads}) leaves the decode half none of {threads} threads: "
            f"set it to {threads - 1} or less"
        )
    if others.get("overlap") == "on":
        return f"{what} does not prepare steps ahead: set overlap to auto or off"
    if codec is not None and codec.codec == "kivi":
        return f"{what} hands over blocks, and codec kivi keeps an exact window beside them: choose another codec"
    if others.get("preemption") is not None:
        return f"{what} computes preempted requests again in the decode half: set preemption off"
    if others.get("kv_layout") is not None:
        return f"{what} hands over blocks, and kv_layout records one engine's pool: set kv_layout off"
    if asked.is_partitioned and others.get("prefix_sharing") is not None:
        return (
            f"{what} gives each block of the one pool to one half at a time, and a shared prefix would be held by "
            "both: set prefix_sharing off, or placement.kind to disaggregated"
        )
    return None


def _blocks_for_both(blocks: int | None, others: Mapping[str, Any]) -> str | None:
    asked: Placement | None = others.get("placement")
    if asked is None or not asked.is_apart or blocks is None or blocks >= 2:
        return None
    return f"placement.kind {asked.kind} needs a block for each half: set kv_blocks to 2 or more"


def _whole_batches_apart(policy: str | None, others: Mapping[str, Any]) -> str | None:
    asked: Placement | None = others.get("placement")
    if asked is None or not asked.is_apart or policy not in WHOLE_BATCHES:
        return None
    return (
        f"policy {policy} finishes a batch of prompts and outputs before the next, and placement.kind {asked.kind} "
        "computes them in different processes: choose another policy, or placement off"
    )


def _found_by_prefix(asked: KVTiers | None, others: Mapping[str, Any]) -> str | None:
    if asked is None:
        return None
    return _without_prefixes(
        others,
        "kv_tiers",
        needs="keeps the blocks that prefix sharing publishes, and finds them by the same hashes",
        idle="nothing would be loaded from kv_tiers",
    ) or _in_both_halves(others, "kv_tiers", "kv_tiers lie below one")


def _without_prefixes(others: Mapping[str, Any], name: str, *, needs: str, idle: str) -> str | None:
    """Why a technique that ``needs`` prefixes to be found cannot be on; ``idle``: what comes of it else."""
    if "prefix_sharing" not in others:  # it was refused itself
        return None
    sharing: PrefixSharing | None = others["prefix_sharing"]
    if sharing is None:
        return f"{name} {needs}: set prefix_sharing on, or {name} off"
    if not sharing.skip_prefill:
        return f"prefix_sharing.skip_prefill off computes every prompt, so {idle}: set it on, or {name} off"
    return None


def _in_both_halves(others: Mapping[str, Any], name: str, why: str) -> str | None:
    placement: Placement | None = others.get("placement")
    if placement is None or not placement.is_apart:
        return None
    return f"placement.kind {placement.kind} has a KV pool for each half, and {why}: set {name} off, or placement off"


def _packed_already(asked: KVTiers | None, others: Mapping[str, Any]) -> str | None:
    packed: KVQuantization | None = others.get("kv_quantization")
    if asked is None or not asked.loses or packed is None:
        return None
    return (
        f"kv_tiers.codec {asked.codec} takes differences between neighbouring tokens' numbers, and "
        f"kv_quantization.codec {packed.codec} leaves codes with a scale for each: set kv_tiers.codec none, or "
        "kv_quantization off"
    )


def _pinned_prefixes(asked: TimeToLive | None, others: Mapping[str, Any]) -> str | None:
    if asked is None:
        return None
    return _without_prefixes(
        others,
        "time_to_live",
        needs="decides what becomes of the blocks that prefix sharing publishes",
        idle="a turn would find nothing of what is pinned",
    ) or _in_both_halves(others, "time_to_live", "a turn would have to be kept in both")


def _two_orders(asked: TimeToLive | None, others: Mapping[str, Any]) -> str | None:
    sharing: PrefixSharing | None = others.get("prefix_sharing")
    if asked is None or not asked.program_fcfs or sharing is None or sharing.order != "grouped":
        return None
    return (
        "prefix_sharing.order grouped orders waiting requests by their text, and time_to_live.program_fcfs by their "
        "program: set order to arrival, or program_fcfs off"
    )


def _by_length(policy: str | None, others: Mapping[str, Any]) -> str | None:
    asked: TimeToLive | None = others.get("time_to_live")
    if asked is None or not asked.program_fcfs or policy != "padded-sorted":
        return None
    return (
        "policy padded-sorted takes waiting prompts by their length, and time_to_live.program_fcfs by their program: "
        "choose another policy, or set program_fcfs off"
    )


def _whole_batches(policy: str | None, others: Mapping[str, Any]) -> str | None:
    asked: Preemption | None = others.get("preemption")
    if asked is None or not asked.redraws or policy not in WHOLE_BATCHES:
        return None
    return (
        f"policy {policy} finishes a batch before it begins the next, so preemption.priorities {asked.priorities} has "
        "nothing to change: set priorities to fixed, or choose another policy"
    )


def _far_apart(asked: FarPool | None, others: Mapping[str, Any]) -> str | None:
    """A second pool, and what does not read or move its blocks."""
    if asked is None:
        return None
    backend, codec = others.get("attention_backend"), others.get("kv_quantization")
    speculation: Speculation | None = others.get("speculation")
    sharing: PrefixSharing | None = others.get("prefix_sharing")
    preemption: Preemption | None = others.get("preemption")
    if str(others.get("device")).startswith("cuda"):
        return "far_pool is served on a CPU, where both pools lie in memory of the host: set device to cpu"
    if backend not in (None, "auto", "gathered"):
        return f"far_pool merges partial results, which needs attention_backend gathered, not {backend}"
    if others.get("overlap") == "on":
        return "far_pool moves blocks while a step is planned, and overlap on has another one running: set it to off"
    if sharing is not None and sharing.attention != "off":
        return "prefix_sharing.attention reads shared blocks of one pool: set it to off, or far_pool off"
    if speculation is not None and speculation.verification != "ragged":
        return f"speculation.verification {speculation.verification} reads one pool: set it to ragged, or far_pool off"
    if speculation is not None and speculation.proposer == "draft-model":
        return "speculation.proposer draft-model keeps blocks of its own beside one pool: choose another proposer"
    if codec is not None and codec.codec == "kivi":
        return "far_pool moves blocks, and codec kivi keeps an exact window beside them: choose another codec"
    if codec is not None and codec.prefill == "exact":
        return "far_pool reads what is stored: set kv_quantization.prefill to stored"
    if preemption is not None and preemption.swaps:
        return "preemption.mode swap copies blocks of one pool to the host: set it to recompute, or far_pool off"
    return _one_pool(others)


def _one_pool(others: Mapping[str, Any]) -> str | None:
    """Techniques whose books know one pool only, beside a far one."""
    why = {
        "kv_layout": "lays out and records one pool",
        "placement": "has two processes, which hand blocks over",
        "kv_tiers": "is the other place for blocks that leave the pool",
        "time_to_live": "pins blocks where they lie",
    }
    for name, reason in why.items():
        if others.get(name) is not None:
            return f"{name} {reason}: set {name} off, or far_pool off"
    return None


HANDED_OVER = "keys and values are handed over in memory of the host"
WHOLE_BATCHES = ("static", "padded", "padded-sorted")


def _scores_of_one_engine(kept: bool, others: Mapping[str, Any]) -> str | None:
    placement: Placement | None = others.get("placement")
    if not kept or placement is None or not placement.is_apart:
        return None
    return f"placement.kind {placement.kind} computes first tokens in another process, which tells no log-probabilities"


def _scores_with_the_tokens(kept: bool, others: Mapping[str, Any]) -> str | None:
    return (
        "log-probabilities are stored beside the tokens: set keep_text"
        if kept and not others.get("keep_text", True)
        else None
    )


RULES: Mapping[str, tuple[Rule, ...]] = {
    "prefix_sharing": (_shared_attention_backend,),
    "kv_quantization": (_padded_verification_of_packed,),
    "preemption": (_nobody_preempted,),
    "kv_layout": (_ranges_of_their_own,),
    "placement": (_apart,),
    "kv_tiers": (_found_by_prefix, _packed_already),
    "time_to_live": (_pinned_prefixes, _two_orders),
    "far_pool": (_far_apart,),
    "keep_logprobs": (_scores_of_one_engine, _scores_with_the_tokens),
    "policy": (_whole_batches, _whole_batches_apart, _by_length),
    "kv_blocks": (_blocks_for_both,),
    "block_size": (_shared_blocks, _packed_blocks),
}
"""By the setting that is blamed. A rule sees only settings that ``EngineConfig`` declares before it."""
