from __future__ import annotations

from engine.policies.base import Policy
from engine.scheduler import PlanBuilder


class ChunkOnly(Policy):
    """The ablation of Sarathi-Serve that cuts prompts but never mixes: iterations of chunks and of decodes take turns."""

    _chunks_ran_last = False

    def plan(self, builder: PlanBuilder) -> None:
        builder.set_budget(self.limits.token_budget)
        if not (self._chunks_ran_last and builder.decodes()):
            self.fill_with_chunks(builder, self.limits.chunk_size)
        self._chunks_ran_last = bool(builder.plan.slices)
        if not builder.plan.slices:
            self.decode_all(builder)
