"""Queues, places and blocks: what the scheduler keeps between iterations."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from engine.kv.pool import BlockPool
from engine.kv.prefixes import Prefixes
from engine.request import Request
from engine.scheduling.plan import Plan
from engine.scheduling.preemption import Preemption, Recompute
from engine.scheduling.priorities import Priorities
from engine.scheduling.tier_loads import make_loads
from engine.scheduling.time_to_live import Pins


class Books:
    """Queues, places and blocks of every request that has arrived and not ended."""

    def __init__(
        self,
        pool: BlockPool,
        max_num_seqs: int,
        prefixes: Prefixes | None = None,
        tails: int | None = None,
        forget: Callable[[Request], None] = lambda request: None,
        preemption: Preemption | None = None,
        priorities: Priorities | None = None,
        time_to_live: Pins | None = None,
    ) -> None:
        """
        Args:
            tails: requests that may run at once because each needs a tail of its own for exact tokens; None: no bound.
            forget: told of a request that ended or lost its blocks.
            preemption: what becomes of a preempted request; None: it is computed again.
            priorities: where they change while requests are served.
            time_to_live: pins of ended turns; None: none.
        """
        self.pool = pool
        self.max_num_seqs = max_num_seqs
        self.prefixes = prefixes or Prefixes(pool)
        self.waiting: list[Request] = []  # sorted by Request.order
        self.running: list[Request] = []  # in order of admission
        self.newcomers = False  # somebody was added since the last plan
        self.free_tails = None if tails is None else list(range(tails))[::-1]
        self.preemption = preemption or Recompute()
        self.priorities = priorities
        self.time_to_live = time_to_live
        self.loads = make_loads(self.prefixes, pool)
        if self.free_tails is not None:
            self.preemption.free_tails = self.free_tails
        pool.running = self.running
        self._forget = forget
        self._last_refusal: tuple[int, str] | None = None

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values running requests hold; shared ones count once."""
        spared = self.pool.num_spared * self.pool.block_size
        leaving = sum(tokens for _, _, tokens in self.preemption.in_transit())
        held = sum(len(table) for table in self.loads.tables()) * self.pool.block_size
        return sum(r.num_computed_tokens for r in self.running) + leaving + held - spared

    def add(self, request: Request) -> None:
        """A request arrives, or comes back after a preemption."""
        if self.priorities is not None and request.level is None:
            self.priorities.begin(request)
        if self.time_to_live is not None and not request.preemptions:
            self.time_to_live.arrived(request)
        insort(self.waiting, request, key=lambda r: r.order)
        self.newcomers = True

    def remove(self, request: Request) -> None:
        """A request ended: its place and its blocks are free again."""
        self.preemption.forget(request)
        self.loads.forget(request)
        if self.priorities is not None:
            self.priorities.forget(request)
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        tip = self.prefixes.tip(request)
        self.release(request)
        if self.time_to_live is not None:
            self.time_to_live.ended(request, tip)

    def preempt(self, request: Request) -> bool:
        """A running request has to leave, and waits again. Returns whether what it computed is kept."""
        self.running.remove(request)
        kept = self.preemption.out(request)
        self.release(request)
        if kept:
            request.set_aside()
        else:
            request.reset_for_recompute()
        self.add(request)
        return kept

    def release(self, request: Request) -> None:
        """Take a request's blocks, and what is kept to guess how it goes on."""
        if self.free_tails is not None and request.tail is not None:
            self.free_tails.append(request.tail)
            request.tail = None
        self.prefixes.release(request)
        self._forget(request)

    def give_back(self, request: Request, keep: int) -> None:
        """Free all but the first ``keep`` blocks of a request's table."""
        self.pool.free(request.block_table[keep:], request.index, keep)
        del request.block_table[keep:]

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

    def check_integrity(self) -> None:
        """Balance the pool's books against the running requests. Raises ``IntegrityError``."""
        leaving = list(self.preemption.in_transit())
        self.pool.check_integrity(
            [*(r.block_table for r in self.running), *(blocks for blocks, _, _ in leaving), *self.loads.tables()]
        )
        self.preemption.check_integrity()
        self.prefixes.check_integrity()
        if self.time_to_live is not None:
            self.time_to_live.check_integrity()
        if self.free_tails is not None:
            held = [*(r.tail for r in self.running), *(tail for _, tail, _ in leaving if tail is not None)]
            tails = sorted([*self.free_tails, *(-1 if tail is None else tail for tail in held)])
            assert tails == list(range(len(tails))), f"tails held and free: {tails}"
        for request in self.running:
            room = len(request.block_table) * self.pool.block_size
            assert request.num_computed_tokens <= room, f"request {request.index} computed beyond its blocks"
        for request in self.waiting:
            assert not request.block_table, f"request {request.index} waits and holds blocks"

    def is_news(self, request: Request, reason: str) -> bool:
        """True when this refusal is news: not the same request for the same reason as the last one."""
        news = self._last_refusal != (request.index, reason)
        self._last_refusal = (request.index, reason)
        return news
