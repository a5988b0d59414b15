"""Where prefix blocks go that have no room in the KV pool any more."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from engine.config.settings import Settings, setting


class KVTiers(Settings):
    """Prefix blocks that are evicted from the KV pool are kept in host memory, then on disk, and loaded back for the
    next request that begins with them."""

    host_mib: float = setting(
        512.0,
        "Host tier",
        "Room for evicted blocks in host memory, page-locked on a GPU; never more than all requests can fill. The "
        "least recently used block goes to disk, or is lost where there is no room there.",
        group="KV tiers",
        unit="MiB",
        gt=0,
        le=2**24,
    )
    disk_mib: float = setting(
        0.0,
        "Disk tier",
        "Room on disk for blocks that host memory has no room for, a file each in the run's folder while it lasts. "
        "0: none.",
        group="KV tiers",
        unit="MiB",
        ge=0,
        le=2**30,
        paper="CacheGen (2023)",
    )
    load: Literal["predicted", "always"] = setting(
        "predicted",
        "Load or recompute",
        "predicted: of the blocks that are found, as many are loaded as makes the predicted time to load those and "
        "compute the rest least. always: all of them are loaded.",
        group="KV tiers",
        paper="CacheGen (2023)",
    )
    asynchronous: bool = setting(
        True,
        "Asynchronous copies",
        "On: blocks are copied, read and decoded beside the computation (a stream of their own on a GPU, threads on a "
        "CPU); a request whose prefix is being loaded waits, and others go on. Off: the engine waits for every copy.",
        group="KV tiers",
        paper="CacheGen (2023)",
    )
    codec: Literal["none", "delta-fine", "delta-medium", "delta-coarse", "adaptive"] = setting(
        "none",
        "Codec of the disk tier",
        "none: bytes as they are. delta-fine, delta-medium, delta-coarse: tokens in groups, as differences to the "
        "first one, rounded to bins that are wider in deeper layers and packed by a range coder with the statistics of "
        "each channel. Bins are 1/8, 1/4 or 1/2 of the root mean square wide in the first layers. Lossy: runs are "
        "labelled so. Host memory keeps bytes as they are. adaptive: blocks are written at all three levels, and of "
        "each the finest is read that the link leaves time for.",
        group="KV tiers",
        paper="CacheGen (2023)",
    )
    ttft_ms: float = setting(
        1000.0,
        "TTFT bound of the adaptive codec",
        "For each block the finest level is read with which, at the rate of the block before, the first token comes "
        "within this time of the request's arrival; where none does, the rest is computed again or the coarsest is "
        "read, whichever is predicted to be sooner.",
        group="KV tiers",
        unit="ms",
        gt=0,
        le=1e7,
        paper="CacheGen (2023)",
    )
    link_gb_per_s: float | None = setting(
        None,
        "Emulated link to the disk tier",
        "Loading from disk takes at least as long as over a link of this rate, as from a store elsewhere, and runs are "
        "labelled so. Empty: the disk as it is.",
        group="KV tiers",
        unit="GB/s",
        gt=0,
        le=1e4,
        paper="CacheGen (2023)",
        advanced=True,
    )

    link_other_gb_per_s: float | None = setting(
        None,
        "Other rate of the emulated link",
        "The link's rate changes to this one and back, in turns. Empty: it stays.",
        group="KV tiers",
        unit="GB/s",
        gt=0,
        le=1e4,
        paper="CacheGen (2023)",
        advanced=True,
    )
    link_turn_s: float = setting(
        10.0,
        "Turn of the emulated link",
        "How long the link keeps a rate before the other one has its turn.",
        group="KV tiers",
        unit="s",
        ge=0.001,
        le=1e6,
        advanced=True,
    )

    @property
    def has_disk(self) -> bool:
        return self.disk_mib > 0

    @property
    def loses(self) -> bool:
        """Whether what comes back from disk is not exactly what went there."""
        return self.has_disk and self.codec != "none"

    @property
    def follows_the_link(self) -> bool:
        """Whether the level of what is read is chosen block by block."""
        return self.codec == "adaptive"

    def reads(self, name: str) -> bool:
        if name == "ttft_ms":
            return self.follows_the_link
        if name == "link_turn_s":
            return self.link_other_gb_per_s is not None
        return name not in ("link_gb_per_s", "link_other_gb_per_s", "codec") or self.has_disk

    @model_validator(mode="after")
    def _something_to_follow(self) -> KVTiers:
        if self.follows_the_link and not self.has_disk:
            raise ValueError(
                "kv_tiers.codec adaptive chooses how blocks are read from disk, and kv_tiers.disk_mib 0 keeps none "
                "there: set disk_mib above 0, or codec to none"
            )
        if self.link_other_gb_per_s is not None and self.link_gb_per_s is None:
            raise ValueError(
                "kv_tiers.link_other_gb_per_s takes turns with kv_tiers.link_gb_per_s, which is empty: set it too"
            )
        return self
