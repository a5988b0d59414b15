"""Tier codecs: how blocks of keys and values are stored on disk. ``make_tier_codec`` picks one by the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.kv.tier_codecs.base import BlockForm, TierCodec
from engine.kv.tier_codecs.delta import DeltaCodec
from engine.kv.tier_codecs.levels import LevelledCodec

__all__ = ["TIER_CODECS", "BlockForm", "DeltaCodec", "LevelledCodec", "TierCodec", "make_tier_codec"]


class DeltaFine(DeltaCodec):
    """Differences to an anchor in bins of 1/8 of the root mean square, in the first layers."""

    def __init__(self, form: BlockForm) -> None:
        super().__init__(1 / 8, form)


class DeltaMedium(DeltaCodec):
    """The same in bins of 1/4."""

    def __init__(self, form: BlockForm) -> None:
        super().__init__(1 / 4, form)


class DeltaCoarse(DeltaCodec):
    """The same in bins of 1/2."""

    def __init__(self, form: BlockForm) -> None:
        super().__init__(1 / 2, form)


TIER_CODECS: Mapping[str, Callable[[BlockForm], TierCodec]] = {
    "delta-fine": DeltaFine,
    "delta-medium": DeltaMedium,
    "delta-coarse": DeltaCoarse,
}


def make_tier_codec(name: str, form: BlockForm) -> TierCodec | None:
    """None for ``none``: bytes as they are. ``adaptive`` has all levels."""
    if name == "adaptive":
        return LevelledCodec({level: make(form) for level, make in TIER_CODECS.items()})
    return None if name == "none" else TIER_CODECS[name](form)
