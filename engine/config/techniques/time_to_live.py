"""What becomes of the keys and values of an agent's turn while its tool works, and whose turn goes first."""

from __future__ import annotations

from typing import Literal

from engine.config.settings import Settings, setting


class TimeToLive(Settings):
    """Turns that end in a tool call keep their KV blocks pinned for a time to live, and the turns of older programs go
    before those of younger ones."""

    mode: Literal["adaptive", "fixed", "evict", "lru"] = setting(
        "adaptive",
        "Blocks of ended turns",
        "adaptive: pinned for the time to live whose expected benefit exceeds the cost of the memory held by most, by "
        "the tool durations seen so far. fixed: pinned for the time below. evict: given up at the end of each turn. "
        "lru: kept as long as nobody needs the room, as without this technique.",
        group="Time to live",
        paper="Continuum (2025)",
    )
    ttl_s: float = setting(
        2.0,
        "Time to live",
        "How long the blocks of a turn that ended in a tool call stay pinned. A turn that is back in time finds them, "
        "however long it waits then.",
        group="Time to live",
        unit="s",
        gt=0,
        le=86_400,
        paper="Continuum (2025)",
    )
    prior_s: float = setting(
        1.0,
        "Tool duration at first",
        "Mean of the exponential distribution that is assumed of a tool until five of its durations were seen.",
        group="Time to live",
        unit="s",
        gt=0,
        le=86_400,
        paper="Continuum (2025)",
        advanced=True,
    )
    program_fcfs: bool = setting(
        True,
        "Programs first come, first served",
        "On: waiting turns are ordered by the arrival of their program's first turn, so a late turn of an old program "
        "goes before the first turn of a new one. Off: by their own arrival.",
        group="Time to live",
        paper="Continuum (2025)",
    )

    @property
    def pins(self) -> bool:
        return self.mode in ("adaptive", "fixed")

    def reads(self, name: str) -> bool:
        return {"ttl_s": self.mode == "fixed", "prior_s": self.mode == "adaptive"}.get(name, True)
