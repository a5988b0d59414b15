"""Where prefix blocks go that have no room in the KV pool any more."""

from __future__ import annotations

from typing import Literal

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
    codec: Literal["none", "delta-fine", "delta-medium", "delta-coarse"] = setting(
        "none",
        "Codec of the disk tier",
        "none: bytes as they are. delta-fine, delta-medium, delta-coarse: tokens in groups, as differences to the "
        "first one, rounded to bins that are wider in deeper layers and packed by a range coder with the statistics of "
        "each channel. Bins are 1/8, 1/4 or 1/2 of the root mean square wide in the first layers. Lossy: runs are "
        "labelled so. Host memory keeps bytes as they are.",
        group="KV tiers",
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

    @property
    def has_disk(self) -> bool:
        return self.disk_mib > 0

    @property
    def loses(self) -> bool:
        """Whether what comes back from disk is not exactly what went there."""
        return self.has_disk and self.codec != "none"

    def reads(self, name: str) -> bool:
        return name not in ("link_gb_per_s", "codec") or self.has_disk
