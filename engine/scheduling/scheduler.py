"""The scheduler's one rule: every iteration hands out tokens so that what is computed catches up with what is known.

A ``Policy`` (``engine.scheduling.policies``) decides who gets how many tokens by calling ``PlanBuilder.compute`` and
``PlanBuilder.admit``. Same inputs, same ``Plan`` out, whatever the policy.
"""

from __future__ import annotations

from engine.kv.pool import BlockPool
from engine.kv.prefixes import Prefixes
from engine.request import Request
from engine.scheduling.books import Books
from engine.scheduling.builder import Drafter, PlanBuilder
from engine.scheduling.plan import Plan
from engine.scheduling.policies.base import Policy


class Scheduler(Books):
    """The books, and a policy that plans over them."""

    def __init__(
        self,
        pool: BlockPool,
        policy: Policy,
        max_num_seqs: int,
        prefixes: Prefixes | None = None,
        drafter: Drafter | None = None,
        tails: int | None = None,
    ) -> None:
        """``tails``: as ``Books`` takes them."""
        super().__init__(pool, max_num_seqs, prefixes, tails, forget=self._drop_guesses)
        self.policy = policy
        self.drafter = drafter

    def plan(self) -> Plan:
        """Decide the next iteration. Blocks for it are allocated; the batch may be empty."""
        if self.newcomers:
            self.prefixes.rank(self.waiting)
            self.waiting.sort(key=lambda r: r.order)
            self.newcomers = False
        builder = PlanBuilder(self, self.drafter)
        if self.policy.budgeted:
            builder.set_budget(self.policy.limits.token_budget)
        self.policy.plan(builder)
        builder.plan.num_waiting = len(self.waiting)
        return builder.plan

    def _drop_guesses(self, request: Request) -> None:
        if self.drafter is not None:
            self.drafter.forget(request)
