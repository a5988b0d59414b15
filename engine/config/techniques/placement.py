"""Where prefill and decode run."""

from __future__ import annotations

from typing import Literal

from engine.config.settings import Settings, setting

DISAGGREGATED_ONLY = ("prefill_memory", "link_mb_per_s", "link_launch_us")
PARTITIONED_ONLY = ("share", "ttft_ms", "tpot_ms", "gain", "hysteresis", "interval_s", "lend", "prefill_order")
READ_BY = {
    "ttft_ms": "slo",
    "tpot_ms": "slo",
    "gain": "slo",
    "hysteresis": "cost",
}
"""Settings that one way of moving the share reads."""


class Placement(Settings):
    """Prompts are computed in one engine process and their continuations in another; keys and values are handed
    over, or stay where they are."""

    kind: Literal["disaggregated", "partitioned", "colocated"] = setting(
        "disaggregated",
        "Where phases run",
        "disaggregated: two engine processes with a KV pool, threads and weights of their own. One computes prompts "
        "and first tokens, the other everything after; each request's blocks are handed over once, through shared "
        "memory. "
        "partitioned: two engine processes on CPU cores of their own, with one copy of the weights and one KV pool "
        "from which both take blocks; nothing is copied, and cores can move between them. "
        "colocated: one engine computes both, as without this technique.",
        group="Disaggregation",
        paper="DistServe (2024), semi-PD (2025), Nexus (2025)",
    )
    prefill_memory: float = setting(
        0.5,
        "Memory for prefill",
        "Share of the KV pool's memory that the prefill half has; the rest is the decode half's.",
        group="Disaggregation",
        gt=0,
        lt=1,
        paper="DistServe (2024)",
    )
    prefill_threads: int | None = setting(
        None,
        "Threads for prefill",
        "CPU threads of the prefill half; the rest of the run's threads are the decode half's. Empty: half of them. "
        "With one pool for both a thread has a core to itself, and this is where the share begins.",
        group="Disaggregation",
        unit="threads",
        ge=1,
        le=1024,
        paper="DistServe (2024)",
    )
    link_mb_per_s: float | None = setting(
        None,
        "Emulated link",
        "Handing over takes at least as long as over a link of this rate, and runs are labelled so. Empty: the memory "
        "as it is.",
        group="Disaggregation",
        unit="MB/s",
        gt=0,
        le=1e7,
        paper="DistServe (2024)",
    )
    link_launch_us: float = setting(
        10.0,
        "Launch on the emulated link",
        "What starting a copy takes on the emulated link, whatever its size.",
        group="Disaggregation",
        unit="µs",
        ge=0,
        le=1e6,
        advanced=True,
    )

    share: Literal["fixed", "slo", "cost"] = setting(
        "fixed",
        "Who moves the share",
        "fixed: nobody. slo: towards the phase whose latency is further beyond its bound, as measured. cost: ahead of "
        "latencies, to the split with the least modelled slowdown of both phases. Each half keeps a core at least, so "
        "on two cores there is nothing to move.",
        group="Disaggregation",
        paper="semi-PD (2025), Nexus (2025)",
    )
    ttft_ms: float = setting(
        500.0,
        "Bound on TTFT",
        "Time to first token that the share is moved for: the mean of the last requests, those that wait included.",
        group="Disaggregation",
        unit="ms",
        gt=0,
        le=1e7,
        paper="semi-PD (2025)",
    )
    tpot_ms: float = setting(
        100.0,
        "Bound on TPOT",
        "Time between a request's tokens that the share is moved for: the mean of the last decode steps.",
        group="Disaggregation",
        unit="ms",
        gt=0,
        le=1e7,
        paper="semi-PD (2025)",
    )
    gain: float = setting(
        1.0,
        "Gain",
        "Cores moved for a latency of twice its bound; one at least.",
        group="Disaggregation",
        unit="cores",
        gt=0,
        le=1024,
        paper="semi-PD (2025)",
        advanced=True,
    )
    hysteresis: float = setting(
        0.1,
        "Hysteresis",
        "The share moves only where the modelled slowdown falls by more than this part of it.",
        group="Disaggregation",
        ge=0,
        lt=1,
        paper="Nexus (2025)",
        advanced=True,
    )
    interval_s: float = setting(
        0.5,
        "Time between moves",
        "Shortest time between two moves of the share.",
        group="Disaggregation",
        unit="s",
        gt=0,
        le=3600,
        advanced=True,
    )
    lend: bool = setting(
        False,
        "Lend idle cores",
        "A half with nothing to do lends its cores to the other. It gets them back after the step that runs on them. "
        "Off: they stay idle.",
        group="Disaggregation",
        paper="Nexus (2025)",
    )
    prefill_order: Literal["arrival", "shortest"] = setting(
        "arrival",
        "Order of prompts",
        "arrival: first come, first served. shortest: the shortest prompt first; a prompt that waits counts as shorter "
        "from second to second, so none waits for ever.",
        group="Disaggregation",
        paper="Nexus (2025)",
    )

    @property
    def is_apart(self) -> bool:
        """Whether each phase has a process of its own."""
        return self.kind != "colocated"

    @property
    def is_partitioned(self) -> bool:
        """Whether these have one pool and one copy of the weights."""
        return self.kind == "partitioned"

    def reads(self, name: str) -> bool:
        if name in DISAGGREGATED_ONLY:
            linked = name != "link_launch_us" or self.link_mb_per_s is not None
            return self.kind == "disaggregated" and linked
        if name in PARTITIONED_ONLY:
            moved = name != "interval_s" or self.share != "fixed"
            return self.is_partitioned and moved and READ_BY.get(name, self.share) == self.share
        return self.is_apart or name != "prefill_threads"
