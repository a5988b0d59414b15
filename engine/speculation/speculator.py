"""Drafts for an iteration that is being planned: who gets how many guesses, under the budget and the free blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from engine.request import Request
from engine.scheduling.builder import PlanBuilder
from engine.scheduling.plan import Plan, Slice
from engine.speculation.base import Proposer
from engine.speculation.control import LengthControl
from engine.speculation.length_pool import SameLengthPool


class Speculator:
    """The scheduler's ``Drafter``: a proposer that guesses and a control that says how far."""

    def __init__(
        self, proposer: Proposer, control: LengthControl, max_model_len: int, pool: SameLengthPool | None = None
    ) -> None:
        """``pool``: lets only requests of equal length run together (a teaching variant)."""
        self.proposer = proposer
        self.control = control
        self.max_model_len = max_model_len
        self.pool = pool
        self._resting = False

    def extend(self, builder: PlanBuilder) -> None:
        """Turn decodes of the plan into verifications. Never preempts, never exceeds the budget."""
        if self._resting:
            builder.plan.rests = True
            return
        started = time.perf_counter_ns()
        if self.pool is not None:
            self.pool.select(builder)
        parts = [part for part in builder.plan.slices if not part.is_prefill and part.samples]
        if parts:
            reach = [min(self.control.most, self._useful(part.request)) for part in parts]
            if self.proposer.runs_model:
                self._guess_after_choosing(builder, parts, reach)
            else:
                self._guess_before_choosing(builder, parts, reach)
        builder.plan.draft_ns += time.perf_counter_ns() - started

    def rest(self) -> bool:
        """Whether the next ``extend`` adds nothing, as the control expects guesses not to pay for a while."""
        self._resting = self.pool is None and self.control.rest()
        return self._resting

    def miss(self, parts: Sequence[Slice]) -> None:
        if self.proposer.observes:
            self.proposer.miss(parts)

    def observe(self, parts: Sequence[Slice], hidden: torch.Tensor) -> None:
        if self.proposer.observes:
            self.proposer.observe(parts, hidden)

    def learn(self, plan: Plan, duration_ns: int) -> None:
        self.control.learn(plan, duration_ns)

    def describe(self) -> dict[str, float]:
        """What the control learnt, for the run's summary."""
        return self.control.describe()

    def forget(self, request: Request) -> None:
        self.proposer.forget(request)
        self.control.forget(request.index)

    def _guess_before_choosing(self, builder: PlanBuilder, parts: Sequence[Slice], reach: Sequence[int]) -> None:
        drafts = self.proposer.propose([part.request for part in parts], reach)
        lengths = self.control.choose(builder, parts, [len(draft.tokens) for draft in drafts])
        for part, draft, length in zip(parts, drafts, fitting(builder, parts, lengths), strict=True):
            if length > 0:
                builder.grant_draft(part, draft.cut(length))

    def _guess_after_choosing(self, builder: PlanBuilder, parts: Sequence[Slice], reach: Sequence[int]) -> None:
        lengths = fitting(builder, parts, self.control.choose(builder, parts, reach))
        if not any(lengths):
            return
        for part, length in zip(parts, lengths, strict=True):
            builder.reserve(part.request, part.context_len + 1 + length)
        for part, draft in zip(parts, self.proposer.propose([part.request for part in parts], lengths), strict=True):
            if draft.tokens:
                builder.grant_draft(part, draft)
            builder.books.give_back(part.request, builder.pool.blocks_for(part.context_len + part.tokens))

    def _useful(self, request: Request) -> int:
        """Guesses that can still become output: the target adds one token of its own."""
        known = len(request.token_ids)
        return max(0, min(request.max_tokens - request.num_output_tokens, self.max_model_len - known) - 1)


def fitting(builder: PlanBuilder, parts: Sequence[Slice], lengths: Sequence[int]) -> list[int]:
    """``lengths`` cut to what the budget leaves and the free blocks hold, the most important requests first."""
    pool = builder.pool
    room, free = builder.room_for_drafts, pool.num_free
    fits = []
    for part, wanted in zip(parts, lengths, strict=True):
        table, known = part.request.block_table, part.context_len + 1
        length = max(0, wanted if room is None else min(wanted, room))
        while (cost := pool.cost(pool.blocks_for(known + length) - len(table), table[-1])) > free and length:
            length -= 1
        free -= cost
        if room is not None:
            room -= length
        fits.append(length)
    return fits
