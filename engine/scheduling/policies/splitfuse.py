from __future__ import annotations

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.policies.base import Policy


class SplitFuse(Policy):
    """DeepSpeed-FastGen's Dynamic SplitFuse: every pass is filled to the same number of tokens, whatever prompt they
    come from.

    The budget is a target chosen for throughput: prompts are composed and cut to reach it exactly, so there is no chunk
    size.
    """

    name = "splitfuse"
    budgeted = True

    def plan(self, builder: PlanBuilder) -> None:
        self.decode_all(builder)
        self.fill_with_chunks(builder, None)
