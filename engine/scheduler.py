"""The scheduler's one rule: every iteration hands out tokens so that what is computed catches up with what is known.

``Scheduler`` keeps the queues and the books; a ``Policy`` (``engine.policies``) decides who gets how many tokens by calling
``PlanBuilder.compute`` and ``PlanBuilder.admit``. Same inputs, same ``Plan`` out, whatever the policy.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from engine.kv.pool import BlockPool
from engine.request import Request

if TYPE_CHECKING:
    from engine.policies.base import Policy


class Decision(NamedTuple):
    """Something worth explaining, for the ``decision`` rows; -1 stands for null."""

    request: int
    action: str
    reason: str
    tokens: int = -1
    tokens_left: int = -1
    blocks_needed: int = -1
    blocks_free: int = -1


@dataclass(slots=True)
class Slice:
    """One request's part in one iteration."""

    request: Request
    tokens: int
    context_len: int  # tokens of the request in the pool before the iteration
    is_prefill: bool

    @property
    def samples(self) -> bool:
        """This slice reaches the last known token, so a new one is drawn."""
        return self.context_len + self.tokens == self.request.num_known_tokens


@dataclass(slots=True)
class Plan:
    """What one iteration computes."""

    slices: list[Slice] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    token_budget: int = -1
    admission_stop: str = "none_waiting"
    num_waiting: int = 0

    @property
    def num_tokens(self) -> int:
        return sum([s.tokens for s in self.slices])


class Scheduler:
    """Queues, places and blocks of every request that has arrived and not ended."""

    def __init__(self, pool: BlockPool, policy: Policy, max_num_seqs: int) -> None:
        self.pool = pool
        self.policy = policy
        self.max_num_seqs = max_num_seqs
        self.waiting: list[Request] = []  # sorted by Request.order
        self.running: list[Request] = []  # in order of admission
        self._last_refusal: tuple[int, str] | None = None

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """A request arrives, or comes back after a preemption."""
        insort(self.waiting, request, key=lambda r: r.order)

    def plan(self) -> Plan:
        """Decide the next iteration. Blocks for it are allocated; the batch may be empty."""
        builder = PlanBuilder(self)
        self.policy.plan(builder)
        builder.plan.num_waiting = len(self.waiting)
        return builder.plan

    def commit(self, plan: Plan) -> None:
        """The iteration was computed: its tokens' keys and values are in the pool."""
        size = self.pool.block_size
        for part in plan.slices:
            request = part.request
            before, after = request.num_computed_tokens, request.num_computed_tokens + part.tokens
            request.num_computed_tokens = after
            for position in range(before // size, after // size):
                self.pool.filled(request.block_table[position], request.index, position)

    def remove(self, request: Request) -> None:
        """A request ended: its place and its blocks are free again."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._release(request)

    def check_integrity(self) -> None:
        """Balance the pool's books against the running requests. Raises ``IntegrityError``."""
        self.pool.check_integrity(r.block_table for r in self.running)
        for request in self.running:
            held = len(request.block_table) * self.pool.block_size
            assert request.num_computed_tokens <= held, f"request {request.index} computed beyond its blocks"
        for request in self.waiting:
            assert not request.block_table, f"request {request.index} waits and holds blocks"

    def _release(self, request: Request) -> None:
        self.pool.free(request.block_table, request.index)
        request.block_table = []

    def _refusal(self, request: Request, reason: str) -> bool:
        """True when this refusal is news: not the same request for the same reason as the last one."""
        news = self._last_refusal != (request.index, reason)
        self._last_refusal = (request.index, reason)
        return news


class PlanBuilder:
    """A plan being made: what a policy may look at and do."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.plan = Plan()
        self.scheduler = scheduler
        self.pool = scheduler.pool
        self.tokens = 0  # granted so far

    def decodes(self) -> list[Request]:
        """Running requests whose prompt is computed, the most important and oldest first."""
        return sorted((r for r in self.scheduler.running if not r.is_prefilling), key=lambda r: r.order)

    def prefills(self) -> list[Request]:
        """Running requests whose prompt is partly computed, the most important and oldest first."""
        return sorted((r for r in self.scheduler.running if r.is_prefilling), key=lambda r: r.order)

    def waiting(self) -> Iterator[Request]:
        """Requests without a place, in order; safe while they are admitted."""
        yield from list(self.scheduler.waiting)

    def set_budget(self, tokens: int) -> None:
        self.plan.token_budget = tokens

    def compute(self, request: Request, tokens: int) -> bool:
        """Give ``tokens`` to a running request; preempt the least important one when the pool is full.

        Returns False when the request itself had to go.
        """
        needed = self.pool.blocks_for(request.num_computed_tokens + tokens) - len(request.block_table)
        while needed > self.pool.num_free:
            victim = max(self.scheduler.running, key=lambda r: r.order)
            self._preempt(victim, needed)
            if victim is request:
                return False
        if needed > 0:
            request.block_table += self.pool.allocate(needed, request.index, len(request.block_table))
        self._grant(request, tokens)
        return True

    def admit(self, request: Request, tokens: int) -> bool:
        """Give a waiting request a place, blocks for everything known of it, and ``tokens`` of this iteration.

        Returns False, and notes why, when it has to wait: policies then stop admitting, so nobody overtakes.
        """
        scheduler, pool = self.scheduler, self.pool
        if len(scheduler.running) >= scheduler.max_num_seqs:
            return self.refuse(request, "max_requests", tokens)
        needed = pool.blocks_for(request.num_known_tokens)
        headroom = max(1, pool.num_blocks // 100) if scheduler.running else 0
        if needed + headroom > pool.num_free:
            return self.refuse(request, "blocks", tokens, needed)
        scheduler.waiting.remove(request)
        scheduler.running.append(request)
        self.plan.admitted.append(request)
        request.block_table = pool.allocate(needed, request.index, 0)
        action = "chunked" if tokens < request.remaining else "admitted"
        self._decide(request, action, "budget" if action == "chunked" else "scheduled", tokens, needed)
        self._grant(request, tokens)
        return True

    def refuse(self, request: Request, reason: str, tokens: int, blocks_needed: int = -1) -> bool:
        """Note why admission stops here; always False."""
        self.plan.admission_stop = reason
        if self.scheduler._refusal(request, reason):
            self._decide(request, "refused", reason, tokens, blocks_needed)
        return False

    @property
    def left(self) -> int:
        """Tokens left of the budget."""
        return self.plan.token_budget - self.tokens

    def _grant(self, request: Request, tokens: int) -> None:
        self.plan.slices.append(Slice(request, tokens, request.num_computed_tokens, request.is_prefilling))
        self.tokens += tokens

    def _preempt(self, victim: Request, blocks_needed: int) -> None:
        scheduler, plan = self.scheduler, self.plan
        for part in plan.slices:
            if part.request is victim:
                plan.slices.remove(part)
                self.tokens -= part.tokens
                break
        self._decide(victim, "preempted", "pool_full", victim.num_computed_tokens, blocks_needed)
        scheduler.running.remove(victim)
        scheduler._release(victim)
        victim.reset_for_recompute()
        scheduler.add(victim)
        plan.preempted.append(victim)

    def _decide(self, request: Request, action: str, reason: str, tokens: int, blocks_needed: int = -1) -> None:
        left = self.left if self.plan.token_budget >= 0 else -1
        self.plan.decisions.append(
            Decision(request.index, action, reason, tokens, left, blocks_needed, self.pool.num_free)
        )
