from __future__ import annotations

from engine.policies.base import Policy
from engine.scheduler import PlanBuilder


class SplitFuse(Policy):
    """DeepSpeed-FastGen's Dynamic SplitFuse: every pass is filled to the same number of tokens, whatever prompt they come from.

    The budget is a target chosen for throughput: prompts are composed and cut to reach it exactly, so there is no chunk size.
    """

    def plan(self, builder: PlanBuilder) -> None:
        builder.set_budget(self.limits.token_budget)
        self.decode_all(builder)
        self.fill_with_chunks(builder, None)
