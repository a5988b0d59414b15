"""Common beginnings computed and held once."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from engine.config.settings import LARGEST_COUNT, Settings, setting


class PrefixSharing(Settings):
    """Requests that begin alike compute and hold their common beginning once.

    Three effects, each of which can be switched alone: prefill not done again, memory not held twice, bytes not read
    twice while decoding.
    """

    skip_prefill: bool = setting(
        True,
        "Skip known prefill",
        "A request takes over the keys and values of the longest prefix that the pool still holds, instead of "
        "computing them again.",
        group="Prefix sharing",
    )
    share_memory: bool = setting(
        True,
        "Share memory",
        "Requests hold equal blocks together. Off: what is taken over is copied, and what was computed twice is kept "
        "twice.",
        group="Prefix sharing",
    )
    copy_partial: bool = setting(
        True,
        "Copy partial blocks",
        "Where two prompts part in the middle of a block, the tokens before that are copied instead of computed.",
        group="Prefix sharing",
        advanced=True,
    )
    wait_in_flight: bool = setting(
        True,
        "Wait for blocks in flight",
        "A request waits for a block that another one computes in the same iteration, instead of computing it too.",
        group="Prefix sharing",
        advanced=True,
    )
    attention: Literal["off", "one-level", "tree"] = setting(
        "off",
        "Shared-prefix attention",
        "Decoding requests that hold the same blocks read them in one pass and merge it with a pass over their own. "
        "one-level: one shared prefix for each; tree: one pass per level of the tree of prefixes.",
        group="Prefix sharing",
        paper="Hydragen (2024)",
    )
    min_group: int = setting(
        4,
        "Smallest group",
        "Minimum number of requests that shared-prefix attention reads together.",
        group="Prefix sharing",
        unit="requests",
        ge=2,
        le=LARGEST_COUNT,
        advanced=True,
    )
    min_prefix_tokens: int = setting(
        64,
        "Shortest prefix",
        "Minimum length of a common prefix for shared-prefix attention.",
        group="Prefix sharing",
        unit="tokens",
        ge=1,
        le=LARGEST_COUNT,
        advanced=True,
    )
    order: Literal["arrival", "grouped"] = setting(
        "arrival",
        "Order",
        "arrival: first come, first served. grouped: waiting requests that share a prefix run together, those with the "
        "larger share of decoding first; for batches known in advance.",
        group="Prefix sharing",
        paper="BatchLLM (2024)",
    )
    admission: Literal["on-demand", "memory"] = setting(
        "on-demand",
        "Admission",
        "on-demand: a request is admitted when its prompt fits and a place is free; others may be preempted later. "
        "memory: a request is admitted when its final size fits beside the final sizes of all others; "
        "places do not count.",
        group="Prefix sharing",
        paper="BatchLLM (2024)",
        advanced=True,
    )
    salt_by_group: bool = setting(
        False,
        "Keep groups apart",
        "Requests share within their workload group only: no tenant can learn from the speed of an answer what another "
        "one asked.",
        group="Prefix sharing",
        advanced=True,
    )

    @model_validator(mode="after")
    def _attention_needs_common_blocks(self) -> PrefixSharing:
        if self.attention != "off" and not self.share_memory:
            raise ValueError(
                "shared-prefix attention reads blocks that requests hold together, so it needs share_memory"
            )
        return self
