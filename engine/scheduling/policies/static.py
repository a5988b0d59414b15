from __future__ import annotations

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.policies.base import Policy


class Static(Policy):
    """Request-level batching as in FasterTransformer: a batch is filled once and finished before the next one
    starts."""

    name = "static"

    def plan(self, builder: PlanBuilder) -> None:
        if not builder.books.running or self._filling(builder):
            self.admit_whole(builder)
        elif builder.books.waiting:
            builder.refuse(builder.books.waiting[0], "policy", builder.books.waiting[0].remaining)
        if not builder.plan.slices:
            self.decode_all(builder)

    @staticmethod
    def _filling(builder: PlanBuilder) -> bool:
        """Nobody in the batch has received a second token yet: prompts cut off by the token limit may still join."""
        return all(r.num_output_tokens <= 1 and not r.preemptions for r in builder.books.running)
