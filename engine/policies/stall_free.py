from __future__ import annotations

from engine.policies.base import Policy
from engine.scheduler import PlanBuilder


class StallFree(Policy):
    """Sarathi-Serve: decodes first and always, then chunks of started prompts, then new prompts, under one budget.

    The budget is an upper bound chosen for latency. Requests beyond the budget's number of decodes are not admitted, so a
    decode is never skipped.
    """

    def plan(self, builder: PlanBuilder) -> None:
        builder.set_budget(self.limits.token_budget)
        self.decode_all(builder)
        self.fill_with_chunks(builder, self.limits.chunk_size)
