"""The same-length pool (ExSpec, 2025): of the requests that decode, those of equal length run together and nothing has
to be realigned."""

from __future__ import annotations

from collections import defaultdict

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.plan import Slice

PATIENCE = 8  # steps that somebody may be passed over in a row


class SameLengthPool:
    """Takes decodes out of a plan that are not of the most common length; all run where no length is common enough."""

    def __init__(self, group: int) -> None:
        """``group``: so many requests of one length are enough to run without the others."""
        self._group = group
        self._passed_over: dict[int, int] = {}  # request -> steps in a row

    def select(self, builder: PlanBuilder) -> None:
        """Keep prompts, and of the decodes one group of equal length or all."""
        decodes = [part for part in builder.plan.slices if not part.is_prefill]
        groups: dict[int, list[Slice]] = defaultdict(list)
        for part in decodes:
            groups[part.context_len].append(part)
        chosen = max(groups.values(), key=len, default=[])
        waited = max((self._passed_over.get(part.request.index, 0) for part in decodes), default=0)
        if len(chosen) < self._group or waited >= PATIENCE:
            chosen = decodes
        keep = {part.request.index for part in chosen}
        left_out = [part for part in decodes if part.request.index not in keep]
        self._passed_over = {part.request.index: self._passed_over.get(part.request.index, 0) + 1 for part in left_out}
        for part in left_out:
            builder.withdraw(part)
