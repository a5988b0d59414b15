"""A block in tiers below the KV pool, and what was done with blocks there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.kv.prefixes import Node

HOST, DISK = "host", "disk"
STORE, LOAD, DECLINE, LOSE, DAMAGED = "store", "load", "decline", "lose", "damaged"


@dataclass(eq=False, slots=True)
class Kept:
    """A block in a tier or in two."""

    node: Node  # its text, and by its parents all the text before it
    slot: int = -1  # in host memory; -1: not there
    on_disk: bool = False
    digest: bytes = b""  # of its bytes, where the books are checked

    @property
    def tier(self) -> str:
        return HOST if self.slot >= 0 else DISK


@dataclass(slots=True)
class TierMove:
    """What was done with blocks of a tier, for the ``tier`` rows; columns as there, times on the run's clock."""

    action: str
    tier: str
    request: int = -1
    time_ns: int = 0
    duration_ns: int = 0
    blocks: int = 0
    tokens: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    codec_ns: int = 0
    load_ns: int = -1
    recompute_ns: int = -1


def runs_of(found: Sequence[Kept]) -> list[tuple[str, list[Kept]]]:
    """What was found, cut where the tier changes."""
    runs: list[tuple[str, list[Kept]]] = []
    for kept in found:
        if not runs or runs[-1][0] != kept.tier:
            runs.append((kept.tier, []))
        runs[-1][1].append(kept)
    return runs
