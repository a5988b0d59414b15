from __future__ import annotations

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.policies.base import Policy


class StallFree(Policy):
    """Sarathi-Serve: decodes first and always, then chunks of started prompts, then new prompts, under one budget.

    The budget is an upper bound chosen for latency. Requests beyond the budget's number of decodes are not admitted, so
    a decode is never skipped.
    """

    name = "stall-free"
    budgeted = True

    def plan(self, builder: PlanBuilder) -> None:
        self.decode_all(builder)
        self.fill_with_chunks(builder, self.limits.chunk_size)
