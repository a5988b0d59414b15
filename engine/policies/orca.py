from __future__ import annotations

from engine.policies.base import Policy
from engine.scheduler import PlanBuilder


class Orca(Policy):
    """Orca: iteration-level batching; whole prompts join the decodes in one iteration, which then lasts as long as they do."""

    def plan(self, builder: PlanBuilder) -> None:
        self.decode_all(builder)
        self.admit_whole(builder)
