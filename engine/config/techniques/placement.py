"""Where prefill and decode run."""

from __future__ import annotations

from typing import Literal

from engine.config.settings import Settings, setting

APART_ONLY = ("prefill_memory", "prefill_threads", "link_mb_per_s", "link_launch_us")


class Placement(Settings):
    """Prompts are computed in one engine process and their continuations in another; keys and values are handed
    over."""

    kind: Literal["disaggregated", "colocated"] = setting(
        "disaggregated",
        "Where phases run",
        "disaggregated: two engine processes with a KV pool, threads and weights of their own. One computes prompts "
        "and first tokens, the other everything after; each request's blocks are handed over once, through shared "
        "memory. "
        "colocated: one engine computes both, as without this technique.",
        group="Disaggregation",
        paper="DistServe (2024)",
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
        "CPU threads of the prefill half; the rest of the run's threads are the decode half's. Empty: half of them.",
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

    @property
    def is_apart(self) -> bool:
        """Whether each phase has a process of its own."""
        return self.kind == "disaggregated"

    def reads(self, name: str) -> bool:
        if name == "link_launch_us" and self.link_mb_per_s is None:
            return False
        return self.is_apart or name not in APART_ONLY
