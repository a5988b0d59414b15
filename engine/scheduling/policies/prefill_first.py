from __future__ import annotations

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.policies.base import Policy


class PrefillFirst(Policy):
    """vLLM before chunked prefill: new prompts run whole and alone, everybody's next token waits meanwhile."""

    name = "prefill-first"

    def plan(self, builder: PlanBuilder) -> None:
        self.admit_whole(builder)
        if not builder.plan.slices:
            self.decode_all(builder)
