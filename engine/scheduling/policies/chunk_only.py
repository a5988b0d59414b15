from __future__ import annotations

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.policies.base import Policy


class ChunkOnly(Policy):
    """The ablation of Sarathi-Serve that cuts prompts but never mixes: iterations of chunks and of decodes take
    turns."""

    name = "chunk-only"
    budgeted = True

    _chunks_ran_last = False

    def plan(self, builder: PlanBuilder) -> None:
        if not (self._chunks_ran_last and builder.decodes()):
            self.fill_with_chunks(builder, self.limits.chunk_size)
        self._chunks_ran_last = bool(builder.plan.slices)
        if not builder.plan.slices:
            self.decode_all(builder)
