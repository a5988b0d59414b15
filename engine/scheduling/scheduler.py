"""The scheduler's one rule: every iteration hands out tokens so that what is computed catches up with what is known.

A ``Policy`` (``engine.scheduling.policies``) decides who gets how many tokens by calling ``PlanBuilder.compute`` and
``PlanBuilder.admit``. Same inputs, same ``Plan`` out, whatever the policy.
"""

from __future__ import annotations

from engine.kv.compute_rate import ComputeRate
from engine.kv.pool import BlockPool
from engine.kv.prefixes import Prefixes
from engine.request import Request
from engine.scheduling.books import Books
from engine.scheduling.builder import PlanBuilder
from engine.scheduling.drafter import Drafter
from engine.scheduling.plan import Plan
from engine.scheduling.policies.base import Policy
from engine.scheduling.preemption import Preemption
from engine.scheduling.priorities import Priorities
from engine.scheduling.time_to_live import Pins


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
        preemption: Preemption | None = None,
        priorities: Priorities | None = None,
        time_to_live: Pins | None = None,
    ) -> None:
        """``tails``, ``preemption``, ``priorities``, ``time_to_live``: as ``Books`` takes them."""
        super().__init__(pool, max_num_seqs, prefixes, tails, self._drop_guesses, preemption, priorities, time_to_live)
        self.policy = policy
        self.drafter = drafter

    @property
    def rates(self) -> list[ComputeRate]:
        """Who wants to know how long steps with prompt tokens take."""
        tiers, time_to_live = self.prefixes.tiers, self.time_to_live
        return [*([] if tiers is None else [tiers.choice]), *([] if time_to_live is None else [time_to_live.ttl.rate])]

    def close(self) -> None:
        """The run is over: nothing is under way, and nothing pinned."""
        if self.time_to_live is not None:
            self.time_to_live.close()
        self.loads.close()
        self.preemption.close()

    def plan(self) -> Plan:
        """Decide the next iteration. Blocks for it are allocated; the batch may be empty.

        Where everybody who could compute waits for copies, so does this; not where all wait for loads from tiers
        (``all_load``): who comes meanwhile may go first.
        """
        self.preemption.settle()
        self.loads.settle()
        if self.time_to_live is not None:
            self.time_to_live.expire()
        redrawn = self.priorities is not None and self.priorities.next_iteration(self.running, self.waiting)
        if self.newcomers or redrawn:
            self.prefixes.rank(self.waiting)
            self.waiting.sort(key=lambda r: r.order)
            self.newcomers = False
        plan, preempted = self._planned(Plan()), 0
        while not plan.slices and not self.all_load and (self._wait() or len(plan.preempted) > preempted):
            preempted = len(plan.preempted)  # those who were to compute left instead; now others may
            plan = self._planned(plan)
        self.preemption.ahead(self.running, self.prefixes.settled)
        self.loads.ahead(self.running, self.waiting)
        plan.num_waiting = len(self.waiting)
        return plan

    @property
    def all_load(self) -> bool:
        """Whether nothing can be computed until a load from a tier has landed."""
        return self.loads.hold_up(self.waiting, self.running)

    def _wait(self) -> bool:
        """Wait for copies under way. False when there are none."""
        return self.preemption.wait() or self.loads.wait()

    def _planned(self, plan: Plan) -> Plan:
        """An empty plan, filled by the policy."""
        builder = PlanBuilder(self, self.drafter, plan)
        if self.policy.budgeted:
            builder.set_budget(self.policy.limits.token_budget)
        builder.begin_loads()
        self.policy.plan(builder)
        return builder.plan

    def _drop_guesses(self, request: Request) -> None:
        if self.drafter is not None:
            self.drafter.forget(request)
