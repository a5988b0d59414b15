"""A block in tiers below the KV pool, and what was done with blocks there."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from engine.kv.copying import Ticket
from engine.kv.prefixes import Node
from engine.kv.tier_levels import Chosen, Due

HOST, DISK = "host", "disk"
STORE, LOAD, DECLINE, LOSE, DAMAGED = "store", "load", "decline", "lose", "damaged"


@dataclass(eq=False, slots=True)
class Kept:
    """A block in a tier or in two."""

    node: Node  # its text, and by its parents all the text before it
    slot: int = -1  # in host memory; -1: not there
    on_disk: bool = False
    written: Ticket | None = None  # that brings it to disk, until that has landed
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
    asked_ns: int = -1
    waited_ns: int = 0
    level: str | None = None
    link_bytes_per_s: float = math.nan
    left_s: float = math.nan
    load_ns: int = -1
    recompute_ns: int = -1

    def say(self, chosen: Chosen | None) -> None:
        """At which level, and why."""
        if chosen is not None:
            self.level, self.left_s = chosen.level, chosen.left_s
            self.link_bytes_per_s = chosen.bytes_per_s or math.nan


class _InTier(Protocol):
    @property
    def tier(self) -> str: ...


T = TypeVar("T", bound=_InTier)


def runs_of(found: Sequence[T]) -> list[tuple[str, list[T]]]:
    """What was found, cut where the tier changes."""
    runs: list[tuple[str, list[T]]] = []
    for kept in found:
        if not runs or runs[-1][0] != kept.tier:
            runs.append((kept.tier, []))
        runs[-1][1].append(kept)
    return runs


@dataclass(eq=False)
class Leaving:
    """A copy from the pool to host memory, or from there to disk, that has not landed."""

    kept: Kept
    ticket: Ticket
    block: int = -1  # of the pool, where it comes from there
    reserved: int = 0  # bytes on disk, where it goes there
    codec_ns: int = 0


@dataclass(eq=False)
class Piece:
    """A block that is being loaded: its ticket, and how that went."""

    kept: Kept
    tier: str
    slot: int  # in host memory, from which it is copied
    place: int  # in its load
    ticket: Ticket | None = None
    began_ns: int = 0
    filled: bool = False
    damaged: bool = False  # its file is gone, or not what was written
    stored: int = 0  # bytes, as its tier has it
    codec_ns: int = 0
    chosen: Chosen | None = None  # at which level it is read, where that follows the link


@dataclass(eq=False)
class Load:
    """Blocks of one request on their way into the pool."""

    request: int
    asked_ns: int
    pieces: list[Piece] = field(default_factory=list)
    predicted: list[tuple[float | None, float | None]] = field(default_factory=list)  # s, of each run of one tier
    due: Due | None = None
    stop: threading.Event = field(default_factory=threading.Event)  # what has not begun is left out
    cleared: bool = False  # the tiers lost all their blocks meanwhile

    @property
    def landed(self) -> bool:
        return all(piece.ticket is not None and piece.ticket.landed.is_set() for piece in self.pieces)


def by_level(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Blocks of a load from one tier, cut where the level changes."""
    levels = [None if piece.chosen is None else piece.chosen.level for piece in pieces]
    cuts = [n for n in range(1, len(pieces)) if levels[n] != levels[n - 1]]
    ends = [*cuts, len(pieces)] if pieces else []
    return [list(pieces[a:b]) for a, b in zip([0, *cuts], ends, strict=False)]
