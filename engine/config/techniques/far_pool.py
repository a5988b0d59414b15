"""A second KV pool that requests borrow from where the local one is full."""

from __future__ import annotations

from engine.config.settings import LARGEST_COUNT, Settings, setting


class FarPool(Settings):
    """The oldest blocks of requests that do not fit into the KV pool move to a far pool, which computes attention over
    them and returns partial results."""

    blocks: int = setting(
        256,
        "Far pool",
        "Size of the far pool, in blocks. Where the KV pool is full, the oldest block of the request with the most "
        "blocks there moves to the far pool, and stays until the request ends.",
        group="Far KV pool",
        unit="blocks",
        ge=1,
        le=LARGEST_COUNT,
        paper="Infinite-LLM (2024)",
    )
    link_latency_us: float = setting(
        0.0,
        "Latency of the emulated link",
        "A message to or from the far pool takes at least this long, as between machines: one with queries and one "
        "with partial results for each layer of a step, one for the blocks that move. Runs are labelled emulated "
        "link. 0: none.",
        group="Far KV pool",
        unit="us",
        ge=0,
        le=1e6,
        paper="Infinite-LLM (2024)",
    )
    link_gb_per_s: float | None = setting(
        None,
        "Rate of the emulated link",
        "Bytes to and from the far pool take at least as long as over a link of this rate, and runs are labelled "
        "emulated link. Empty: the memory as it is.",
        group="Far KV pool",
        unit="GB/s",
        gt=0,
        le=1e4,
        paper="Infinite-LLM (2024)",
    )

    @property
    def has_link(self) -> bool:
        """Whether a link is emulated."""
        return self.link_latency_us > 0 or self.link_gb_per_s is not None
