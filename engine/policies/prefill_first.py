from __future__ import annotations

from engine.policies.base import Policy
from engine.scheduler import PlanBuilder


class PrefillFirst(Policy):
    """vLLM before chunked prefill: new prompts run whole and alone, everybody's next token waits meanwhile."""

    def plan(self, builder: PlanBuilder) -> None:
        self.admit_whole(builder)
        if not builder.plan.slices:
            self.decode_all(builder)
