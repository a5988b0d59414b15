"""The scheduler's one rule: every iteration hands out tokens so that what is computed catches up with what is known.

``Scheduler`` keeps the queues and the books; a ``Policy`` (``engine.policies``) decides who gets how many tokens by calling
``PlanBuilder.compute`` and ``PlanBuilder.admit``. Same inputs, same ``Plan`` out, whatever the policy.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engine.kv.pool import BlockPool
from engine.kv.prefixes import Match, Prefixes
from engine.request import Draft, Request

if TYPE_CHECKING:
    import torch

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
    value: float | None = None


class Drafter(Protocol):
    """Who guesses continuations while an iteration is planned (``engine.speculation``)."""

    def extend(self, builder: PlanBuilder) -> None:
        """Give decodes that are in the plan drafts to verify, by ``builder.grant_draft``."""
        ...

    def observe(self, parts: list[Slice], hidden: torch.Tensor) -> None:
        """Take in what the pass left behind [rows, hidden], 1 + drafted rows for each of the parts that sampled."""
        ...

    def learn(self, plan: Plan, duration_ns: int) -> None:
        """Take in how an iteration went: what was accepted, and how long the whole step took, drafting included."""
        ...

    def describe(self) -> dict[str, float]:
        """What was learnt over the run, for its summary."""
        ...

    def forget(self, request: Request) -> None:
        """A request ended or lost its blocks: drop what is kept for it."""
        ...


@dataclass(slots=True)
class Slice:
    """One request's part in one iteration.

    A verify slice:   tokens = 1 + drafted        known after the step: what comes before, the accepted ones, and one more
    | last known | draft 1 | draft 2 | ... |      that the target chose itself
    """

    request: Request
    tokens: int
    context_len: int  # tokens of the request in the pool before the iteration
    is_prefill: bool
    drafted: int = 0  # guesses among the tokens, at their end
    accepted: int = 0  # guesses that became output; known once the iteration was verified
    emitted: int = 0  # tokens the request received

    @property
    def samples(self) -> bool:
        """This slice reaches the last known token, so a new one is drawn."""
        return self.context_len + self.tokens == self.request.num_known_tokens

    @property
    def kept(self) -> int:
        """Tokens whose keys and values count: all but the rejected guesses."""
        return self.tokens - self.drafted + self.accepted


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
    draft_ns: int = 0  # time spent guessing while it was made
    prefix_hit_tokens: int = 0  # found in the prefix cache by the requests admitted for the first time
    preempted_hit_tokens: int = 0  # the same of those that come back after a preemption: their own blocks above all
    spared_tokens: int = 0  # keys per layer that attention did not read a second time

    @property
    def num_tokens(self) -> int:
        return sum([s.tokens for s in self.slices])


class Scheduler:
    """Queues, places and blocks of every request that has arrived and not ended."""

    def __init__(
        self,
        pool: BlockPool,
        policy: Policy,
        max_num_seqs: int,
        prefixes: Prefixes | None = None,
        drafter: Drafter | None = None,
        tails: int | None = None,
    ) -> None:
        """``tails``: requests that may run at once because each needs a tail of its own for exact tokens; None: no bound."""
        self.pool = pool
        self.policy = policy
        self.max_num_seqs = max_num_seqs
        self.prefixes = prefixes or Prefixes(pool)
        self.drafter = drafter
        self.waiting: list[Request] = []  # sorted by Request.order
        self.running: list[Request] = []  # in order of admission
        self.free_tails = None if tails is None else list(range(tails))[::-1]
        self._last_refusal: tuple[int, str] | None = None
        self._newcomers = False

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """A request arrives, or comes back after a preemption."""
        insort(self.waiting, request, key=lambda r: r.order)
        self._newcomers = True

    def plan(self) -> Plan:
        """Decide the next iteration. Blocks for it are allocated; the batch may be empty."""
        if self._newcomers:
            self.prefixes.rank(self.waiting)
            self.waiting.sort(key=lambda r: r.order)
            self._newcomers = False
        builder = PlanBuilder(self)
        self.policy.plan(builder)
        builder.plan.num_waiting = len(self.waiting)
        return builder.plan

    def commit(self, plan: Plan) -> None:
        """The iteration was computed and verified: the keys and values of what it kept are in the pool.

        Blocks that only held rejected guesses are given back; nothing can reach what was written there.
        """
        for part in plan.slices:
            request = part.request
            request.num_computed_tokens = part.context_len + part.kept
            self.prefixes.computed(request, part.context_len, request.num_computed_tokens)
            if part.drafted:
                self.give_back(request, self.pool.blocks_for(request.num_computed_tokens))

    def give_back(self, request: Request, keep: int) -> None:
        """Free all but the first ``keep`` blocks of a request's table."""
        self.pool.free(request.block_table[keep:], request.index, keep)
        del request.block_table[keep:]

    def remove(self, request: Request) -> None:
        """A request ended: its place and its blocks are free again."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self.release(request)

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values running requests hold; shared ones count once."""
        spared = self.pool.num_spared * self.pool.block_size
        return sum(r.num_computed_tokens for r in self.running) - spared

    def check_integrity(self) -> None:
        """Balance the pool's books against the running requests. Raises ``IntegrityError``."""
        self.pool.check_integrity(r.block_table for r in self.running)
        self.prefixes.check_integrity()
        if self.free_tails is not None:
            tails = sorted([*self.free_tails, *(-1 if r.tail is None else r.tail for r in self.running)])
            assert tails == list(range(len(tails))), f"tails held and free: {tails}"
        for request in self.running:
            held = len(request.block_table) * self.pool.block_size
            assert request.num_computed_tokens <= held, f"request {request.index} computed beyond its blocks"
        for request in self.waiting:
            assert not request.block_table, f"request {request.index} waits and holds blocks"

    def release(self, request: Request) -> None:
        """Take a request's blocks, and what is kept to guess how it goes on."""
        if self.free_tails is not None and request.tail is not None:
            self.free_tails.append(request.tail)
            request.tail = None
        self.prefixes.release(request)
        if self.drafter is not None:
            self.drafter.forget(request)

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
        self.prefixes = scheduler.prefixes
        self.tokens = 0  # granted so far
        self._found: tuple[Request | None, Match] = (
            None,
            Match(),
        )  # what was last looked up; nothing was allocated since
        self._in_flight: set[int] = set()  # hashes of blocks that this iteration computes

    def decodes(self) -> list[Request]:
        """Running requests whose prompt is computed, the most important and oldest first."""
        going_on = (r for r in self.scheduler.running if not r.is_prefilling and r.remaining)
        return sorted(going_on, key=lambda r: r.order)

    def prefills(self) -> list[Request]:
        """Running requests whose prompt is partly computed, the most important and oldest first."""
        return sorted((r for r in self.scheduler.running if r.is_prefilling), key=lambda r: r.order)

    def waiting(self) -> Iterator[Request]:
        """Requests without a place, in order; safe while they are admitted."""
        yield from [r for r in self.scheduler.waiting if r.remaining]

    def remaining(self, request: Request) -> int:
        """Tokens a waiting request will have to compute: what the prefix cache does not hold."""
        match = self._match(request)
        return request.remaining - len(match.path) * self.pool.block_size - match.partial_tokens

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
            self._note_evictions(request, needed)
        self._grant(request, tokens)
        return True

    def add_drafts(self) -> None:
        """Let decodes verify guesses with what the budget leaves; called once all decodes have their token."""
        if self.scheduler.drafter is not None:
            self.scheduler.drafter.extend(self)

    @property
    def room_for_drafts(self) -> int | None:
        """Tokens that guesses may take, None for no bound: at most half of what is left while prompts want it too."""
        if self.plan.token_budget < 0:
            return None
        prompts_wait = bool(self.scheduler.waiting) or any(r.is_prefilling for r in self.scheduler.running)
        return max(0, self.left) // (2 if prompts_wait else 1)

    def reserve(self, request: Request, tokens: int) -> None:
        """Give a request blocks for ``tokens`` tokens in all. Never preempts: the blocks must be free.

        Raises:
            PoolExhausted: they are not.
        """
        needed = self.pool.blocks_for(tokens) - len(request.block_table)
        if needed > 0:
            request.block_table += self.pool.allocate(needed, request.index, len(request.block_table))

    def withdraw(self, part: Slice) -> None:
        """Take a planned decode out again; it keeps its place and gives back the block its token would have begun."""
        self.plan.slices.remove(part)
        self.tokens -= part.tokens
        self.scheduler.give_back(part.request, self.pool.blocks_for(part.context_len))

    def grant_draft(self, part: Slice, draft: Draft) -> None:
        """Let a planned decode verify ``draft`` too. Its blocks must be free or reserved."""
        drafted = len(draft.tokens)
        self.reserve(part.request, part.context_len + 1 + drafted)
        part.request.draft = draft
        part.drafted = drafted
        part.tokens += drafted
        self.tokens += drafted

    def admit(self, request: Request, tokens: int) -> bool:
        """Give a waiting request a place, blocks for everything known of it, and up to ``tokens`` of this iteration.

        What the prefix cache holds of it is taken over. Returns False, and notes why, when it has to wait: policies then stop
        admitting, so nobody overtakes.
        """
        scheduler = self.scheduler
        if len(scheduler.running) >= scheduler.max_num_seqs and not self.prefixes.reserves:
            return self.refuse(request, "max_requests", tokens)
        if scheduler.free_tails == []:
            return self.refuse(request, "tails", tokens)
        match = self._match(request)
        if match.next_hash in self._in_flight:
            return self.refuse(request, "prefix", tokens)
        needed = self.prefixes.blocks_needed(request, match)
        if needed > self._room(request):
            return self.refuse(request, "blocks", tokens, needed)
        scheduler.waiting.remove(request)
        scheduler.running.append(request)
        if scheduler.free_tails is not None:
            request.tail = scheduler.free_tails.pop()
        self.plan.admitted.append(request)
        self.prefixes.attach(request, match)
        self._note_hit(request, match)
        self._note_evictions(request, needed)
        tokens = min(tokens, request.remaining)
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
        first = request.num_computed_tokens
        self.plan.slices.append(Slice(request, tokens, first, request.is_prefilling))
        self.tokens += tokens
        self._found = (None, Match())
        if self.prefixes.waits:
            self._in_flight.update(self.prefixes.pending(request, first, first + tokens))

    def _room(self, request: Request) -> int:
        """Free blocks that admission may use for what is known of a request: others keep what they need to grow into."""
        running, pool = self.scheduler.running, self.pool
        if self.prefixes.reserves:
            ahead = sum(pool.blocks_for(r.most_computed_tokens) - len(r.block_table) for r in running)
            own = pool.blocks_for(request.most_computed_tokens) - pool.blocks_for(request.num_known_tokens)
            return pool.num_free - ahead - own
        return pool.num_free - (max(1, pool.num_blocks // 100) if running else 0)

    def _match(self, request: Request) -> Match:
        if self._found[0] is not request:
            self._found = (request, self.prefixes.match(request, self._room(request)))
        return self._found[1]

    def _note_hit(self, request: Request, match: Match) -> None:
        if request.preemptions:
            self.plan.preempted_hit_tokens += request.num_computed_tokens
        else:
            self.plan.prefix_hit_tokens += request.num_computed_tokens
            request.cached_tokens = request.num_computed_tokens
        if match.lost_tokens:
            self._decide(request, "evicted", "recomputed", match.lost_tokens)

    def _note_evictions(self, request: Request, blocks_needed: int) -> None:
        evicted = self.prefixes.take_evicted()
        if evicted:
            self._decide(request, "evicted", "blocks", evicted * self.pool.block_size, blocks_needed)

    def _preempt(self, victim: Request, blocks_needed: int) -> None:
        scheduler, plan = self.scheduler, self.plan
        for part in plan.slices:
            if part.request is victim:
                plan.slices.remove(part)
                self.tokens -= part.tokens
                break
        self._decide(victim, "preempted", "pool_full", victim.num_computed_tokens, blocks_needed)
        scheduler.running.remove(victim)
        scheduler.release(victim)
        self._found = (None, Match())
        victim.reset_for_recompute()
        scheduler.add(victim)
        plan.preempted.append(victim)

    def _decide(self, request: Request, action: str, reason: str, tokens: int, blocks_needed: int = -1) -> None:
        left = self.left if self.plan.token_budget >= 0 else -1
        self.plan.decisions.append(
            Decision(request.index, action, reason, tokens, left, blocks_needed, self.pool.num_free)
        )
