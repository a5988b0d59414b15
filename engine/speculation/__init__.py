"""Speculative decoding: who guesses (``PROPOSERS``), how far (``CONTROLS``), and what becomes of the guesses
(``verify``)."""

from __future__ import annotations

from engine.speculation.base import Proposer
from engine.speculation.control import FixedLength
from engine.speculation.head import TrainedHead
from engine.speculation.lookup import PromptLookup
from engine.speculation.models import DraftModel, LayerSkip
from engine.speculation.smart import SmartLength

PROPOSERS: dict[str, type[Proposer]] = {
    proposer.name: proposer for proposer in (PromptLookup, LayerSkip, DraftModel, TrainedHead)
}
"""The registry, in the order the settings list them."""

CONTROLS: dict[str, type[FixedLength] | type[SmartLength]] = {"smart": SmartLength, "fixed": FixedLength}

__all__ = ["CONTROLS", "PROPOSERS", "Proposer"]
