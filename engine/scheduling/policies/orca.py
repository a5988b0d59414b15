from __future__ import annotations

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.policies.base import Policy


class Orca(Policy):
    """Orca: iteration-level batching; whole prompts join the decodes in one iteration, which then lasts as long as they
    do."""

    name = "orca"

    def plan(self, builder: PlanBuilder) -> None:
        self.decode_all(builder)
        self.admit_whole(builder)
