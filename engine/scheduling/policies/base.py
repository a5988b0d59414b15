"""What a scheduling policy is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from engine.request import Request
from engine.scheduling.builder import PlanBuilder


@dataclass(frozen=True)
class Limits:
    """The numbers policies work with, all in tokens.

    ``token_budget`` and ``chunk_size`` bind the policies that cut prompts, ``max_num_batched_tokens`` those that run
    them whole.
    """

    token_budget: int
    chunk_size: int | None
    max_num_batched_tokens: int


class Policy(ABC):
    """Decides who computes how many tokens in the next iteration.

    ``name``: what ``EngineConfig.policy`` calls it. ``budgeted``: an iteration computes at most ``limits.token_budget``
    tokens; the builder has that budget when ``plan`` is called.
    """

    name: ClassVar[str]
    budgeted: ClassVar[bool] = False

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    @abstractmethod
    def plan(self, builder: PlanBuilder) -> None:
        """Fill ``builder`` by calling ``compute`` for running and ``admit`` for waiting requests.

        Must give every request at most ``remaining`` tokens and must not call ``admit`` again in an iteration after it
        returned False. May preempt only through ``compute``.
        """

    def decode_all(self, builder: PlanBuilder) -> None:
        """One step for every request that has its prompt computed, and guesses to verify with it where that is on.

        Where prompts run whole, also the rest of those whose beginning was kept in host memory and is back.
        """
        begun = [] if self.budgeted else builder.prefills()
        for request in begun:
            if request.block_table:
                builder.compute(request, request.remaining)
        for request in builder.decodes():
            if request.block_table:  # an earlier decode may have preempted it
                builder.compute(request, request.remaining)
        builder.add_drafts()

    def admit_whole(self, builder: PlanBuilder) -> None:
        """Admit waiting prompts uncut until ``max_num_batched_tokens``; the first one may be longer than that."""
        prompt_tokens = 0
        for request in self.queue(builder):
            tokens = builder.remaining(request)
            if prompt_tokens and prompt_tokens + tokens > self.limits.max_num_batched_tokens:
                builder.refuse(request, "budget", tokens)
                return
            if not builder.admit(request, tokens):
                return
            prompt_tokens += tokens

    def queue(self, builder: PlanBuilder) -> Iterable[Request]:
        """Waiting requests in the order in which ``admit_whole`` takes them."""
        return builder.waiting()

    def fill_with_chunks(self, builder: PlanBuilder, chunk_size: int | None) -> None:
        """Spend what is left of the budget on prompt chunks: started prompts first, then waiting ones."""
        for request in builder.prefills():
            if request.block_table and builder.left > 0:
                builder.compute(request, self._chunk(request.remaining, builder.left, chunk_size))
        for request in builder.waiting():
            if builder.left <= 0 or len(builder.books.running) >= self.limits.token_budget:
                builder.refuse(request, "budget", request.remaining)
                return
            if not builder.admit(request, self._chunk(builder.remaining(request), builder.left, chunk_size)):
                return

    @staticmethod
    def _chunk(remaining: int, left: int, chunk_size: int | None) -> int:
        return min(remaining, left, chunk_size or remaining)
