from __future__ import annotations

from collections.abc import Iterable

from engine.request import Request
from engine.scheduling.builder import PlanBuilder
from engine.scheduling.policies.base import Limits
from engine.scheduling.policies.static import Static


class Padded(Static):
    """Request-level batching in a rectangle, as before packed batches: prompts are padded to the longest beside them,
    and a request that ended keeps its row until the batch's longest answer does. The rows of padding are computed like
    all others."""

    name = "padded"

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._rows = 0  # of the batch's rectangle: requests that it was filled with

    def plan(self, builder: PlanBuilder) -> None:
        super().plan(builder)
        parts = builder.plan.slices
        if not parts:
            return
        rows = len(parts)
        if not any(part.is_prefill for part in parts):
            rows = max(self._rows, rows)
        self._rows = max(rows, len(builder.books.running))
        builder.plan.padded_tokens = rows * max(part.tokens for part in parts) - builder.tokens


class PaddedSorted(Padded):
    """``Padded``, whose batches are filled with waiting prompts in order of their lengths, so that less is padding."""

    name = "padded-sorted"

    def queue(self, builder: PlanBuilder) -> Iterable[Request]:
        return sorted(builder.waiting(), key=lambda r: (-r.priority, r.remaining, r.order))
