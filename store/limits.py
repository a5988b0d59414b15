"""What limits the engine at the moment, in one sentence, and the figures it rests on.

An iteration cannot be shorter than ``max(FLOPs / F, bytes / M)``, where F and M are the arithmetic rate and the
memory bandwidth measured on this device ("theoretical peak analysis", 2024). Time beyond that bound is overhead:
scheduling, preparing, sampling, recording, launching, and kernels that fall short of the peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["memory_bandwidth", "compute", "kv_capacity", "host_overhead", "no_work"]

IDLE_SHARE = 0.5  # of the window without an iteration in flight: there is nothing to do
BLOCKED_SHARE = 0.25  # of the iterations in which the pool kept a waiting request out, or threw one out
OVERHEAD_SHARE = 0.5  # of the iteration's time beyond what arithmetic and memory traffic need


@dataclass(frozen=True)
class Limit:
    """The verdict: ``kind``, ``sentence`` for people, ``figures`` behind it (None where unknown)."""

    kind: Kind
    sentence: str
    figures: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def what_limits(columns: Mapping[str, np.ndarray], peaks: Mapping[str, float] | None, window_s: float) -> Limit:
    """Judge the iterations of the last ``window_s`` seconds.

    ``columns``: ``duration_ms``, ``forward_ms``, ``flops``, ``bytes``, ``waiting``, ``preempted`` and ``blocked`` (1
    where admission stopped for want of blocks), one value per iteration, all of the window. ``peaks``:
    ``flops_per_s`` and ``bytes_per_s`` measured on this device, or None.
    """
    busy_ms = float(np.sum(columns["duration_ms"]))
    busy_share = min(1.0, busy_ms / (1e3 * window_s)) if window_s > 0 else 0.0
    figures: dict[str, float | None] = {"busy_share": busy_share}
    if not len(columns["duration_ms"]) or busy_share < 1 - IDLE_SHARE:
        return Limit("no_work", f"Too little work: the engine was busy {_percent(busy_share)} of the time.", figures)

    steps = len(columns["duration_ms"])
    refused = (columns["blocked"] > 0) & (columns["waiting"] > 0)
    blocked_share = float(np.mean(refused | (columns["preempted"] > 0)))
    outside_share = max(0.0, 1 - float(np.sum(columns["forward_ms"])) / busy_ms)
    figures |= {
        "blocked_share": blocked_share,
        "preemptions": float(np.sum(columns["preempted"])),
        "outside_forward_share": outside_share,
        "iteration_ms": busy_ms / steps,
    }
    memory_share = overhead_share = None
    if peaks and peaks.get("flops_per_s") and peaks.get("bytes_per_s"):
        compute_ms = columns["flops"] / peaks["flops_per_s"] * 1e3
        memory_ms = columns["bytes"] / peaks["bytes_per_s"] * 1e3
        bound_ms = np.maximum(compute_ms, memory_ms)
        total = float(np.sum(bound_ms))
        overhead_share = max(0.0, 1 - total / busy_ms)
        memory_share = float(np.sum(bound_ms[memory_ms >= compute_ms])) / total if total else None
        figures |= {
            "bound_ms": total / steps,
            "compute_ms": float(np.mean(compute_ms)),
            "memory_ms": float(np.mean(memory_ms)),
            "memory_bound_share": memory_share,
            "overhead_share": overhead_share,
        }
    return Limit(*_verdict(blocked_share, outside_share, overhead_share, memory_share), figures)


def _verdict(
    blocked_share: float, outside_share: float, overhead_share: float | None, memory_share: float | None
) -> tuple[Kind, str]:
    if blocked_share >= BLOCKED_SHARE:
        return (
            "kv_capacity",
            f"KV capacity: in {_percent(blocked_share)} of the iterations the pool had no blocks for a waiting request.",
        )
    if outside_share >= OVERHEAD_SHARE:
        return "host_overhead", f"Host overhead: {_percent(outside_share)} of each iteration passes outside the model."
    if overhead_share is None or memory_share is None:
        return "compute", "The model's forward pass; without this device's measured peaks, what in it is not known."
    reached = _percent(1 - overhead_share)
    if overhead_share >= OVERHEAD_SHARE:
        return (
            "host_overhead",
            f"Overhead: only {reached} of each iteration is arithmetic or memory traffic the batch needs at this "
            "device's peaks.",
        )
    if memory_share >= 0.5:
        return (
            "memory_bandwidth",
            "Memory bandwidth: reading weights and KV cache takes longer than the arithmetic "
            f"({reached} of the measured peak is reached).",
        )
    return (
        "compute",
        f"Compute: arithmetic takes longer than moving the data ({reached} of the measured peak is reached).",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
