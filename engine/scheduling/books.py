"""Queues, places and blocks: what the scheduler keeps between iterations."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from engine.kv.pool import BlockPool
from engine.kv.prefixes import Prefixes
from engine.request import Request
from engine.scheduling.plan import Plan


class Books:
    """Queues, places and blocks of every request that has arrived and not ended."""

    def __init__(
        self,
        pool: BlockPool,
        max_num_seqs: int,
        prefixes: Prefixes | None = None,
        tails: int | None = None,
        forget: Callable[[Request], None] = lambda request: None,
    ) -> None:
        """
        Args:
            tails: requests that may run at once because each needs a tail of its own for exact tokens; None: no bound.
            forget: told of a request that ended or lost its blocks.
        """
        self.pool = pool
        self.max_num_seqs = max_num_seqs
        self.prefixes = prefixes or Prefixes(pool)
        self.waiting: list[Request] = []  # sorted by Request.order
        self.running: list[Request] = []  # in order of admission
        self.newcomers = False  # somebody was added since the last plan
        self.free_tails = None if tails is None else list(range(tails))[::-1]
        self._forget = forget
        self._last_refusal: tuple[int, str] | None = None

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values running requests hold; shared ones count once."""
        spared = self.pool.num_spared * self.pool.block_size
        return sum(r.num_computed_tokens for r in self.running) - spared

    def add(self, request: Request) -> None:
        """A request arrives, or comes back after a preemption."""
        insort(self.waiting, request, key=lambda r: r.order)
        self.newcomers = True

    def remove(self, request: Request) -> None:
        """A request ended: its place and its blocks are free again."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self.release(request)

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

    def is_news(self, request: Request, reason: str) -> bool:
        """True when this refusal is news: not the same request for the same reason as the last one."""
        news = self._last_refusal != (request.index, reason)
        self._last_refusal = (request.index, reason)
        return news
