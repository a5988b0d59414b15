"""A plan in the making: what a policy may look at and do."""

from __future__ import annotations

from collections.abc import Iterator

from engine.kv.prefixes import Match
from engine.request import Draft, Request
from engine.scheduling.books import Books
from engine.scheduling.drafter import Drafter
from engine.scheduling.plan import Decision, Plan, Slice

LOADED_AHEAD = 8  # waiting requests for which loads from tiers are begun before they have a place


class PlanBuilder:
    """A plan being made: what a policy may look at and do."""

    def __init__(self, books: Books, drafter: Drafter | None = None, plan: Plan | None = None) -> None:
        """``plan``: goes on with one in which nothing is computed yet."""
        self.plan = plan or Plan()
        self.books = books
        self.pool = books.pool
        self.prefixes = books.prefixes
        self.tokens = 0  # granted so far
        self._drafter = drafter
        self._found: tuple[Request | None, Match] = (
            None,
            Match(),
        )  # what was last looked up; nothing was allocated since
        self._in_flight: set[int] = set()  # hashes of blocks that this iteration computes

    def decodes(self) -> list[Request]:
        """Running requests whose prompt is computed, the most important and oldest first."""
        going_on = (r for r in self.books.running if not r.is_prefilling and not r.arriving and r.remaining)
        return sorted(going_on, key=lambda r: r.order)

    def prefills(self) -> list[Request]:
        """Running requests whose prompt is partly computed, the most important and oldest first."""
        begun = (r for r in self.books.running if r.is_prefilling and not r.arriving)
        return sorted(begun, key=lambda r: r.order)

    def waiting(self) -> Iterator[Request]:
        """Requests without a place, in order; safe while they are admitted."""
        yield from [r for r in self.books.waiting if r.remaining and not self.books.loads.under_way(r)]

    def begin_loads(self) -> None:
        """Begin to load what the first waiting requests will find in tiers, as far as there is room for all of each."""
        room = None
        for request in list(self.waiting())[:LOADED_AHEAD]:
            if self.books.loads.looked_up(request):
                needed = self.pool.blocks_for(request.num_known_tokens)
            else:
                needed = self.prefixes.blocks_needed(request, self._match(request))
            room = self._room(request) if room is None else room
            if needed > room:
                return
            room -= needed
            if self.books.loads.begin(request, self._match(request)):
                self._found = (None, Match())

    def remaining(self, request: Request) -> int:
        """Tokens a waiting request will have to compute: what neither the prefix cache nor the host holds."""
        match = self._match(request)
        found = match.whole_blocks * self.pool.block_size + match.partial_tokens
        return request.remaining - max(found, self.books.preemption.tokens_of(request))

    def set_budget(self, tokens: int) -> None:
        self.plan.token_budget = tokens

    def compute(self, request: Request, tokens: int) -> bool:
        """Give ``tokens`` to a running request; preempt the least important one when the pool is full.

        Returns False when the request itself had to go.
        """
        table = request.block_table
        needed = self.pool.blocks_for(request.num_computed_tokens + tokens) - len(table)
        while self.pool.cost(needed, table[-1] if table else -1) > self.pool.num_free:
            if self.books.preemption.free_some() or self._yield_load() or self._unpin_one(request):
                continue
            victim = max(self.books.running, key=lambda r: r.order)
            self._preempt(victim, needed)
            if victim is request:
                return False
        if needed > 0:
            self._extend(request, needed)
            self._note_evictions(request, needed)
        self._grant(request, tokens)
        return True

    def add_drafts(self) -> None:
        """Let decodes verify guesses with what the budget leaves; called once all decodes have their token."""
        if self._drafter is not None:
            self._drafter.extend(self)

    @property
    def room_for_drafts(self) -> int | None:
        """Tokens that guesses may take, None for no bound: at most half of what is left while prompts want it too."""
        if self.plan.token_budget < 0:
            return None
        prompts_wait = bool(self.books.waiting) or any(r.is_prefilling for r in self.books.running)
        return max(0, self.left) // (2 if prompts_wait else 1)

    def reserve(self, request: Request, tokens: int) -> None:
        """Give a request blocks for ``tokens`` tokens in all. Never preempts: the blocks must be free.

        Raises:
            PoolExhausted: they are not.
        """
        needed = self.pool.blocks_for(tokens) - len(request.block_table)
        if needed > 0:
            self._extend(request, needed)

    def withdraw(self, part: Slice) -> None:
        """Take a planned decode out again; it keeps its place and gives back the block its token would have begun."""
        self.plan.slices.remove(part)
        self.tokens -= part.tokens
        self.books.give_back(part.request, self.pool.blocks_for(part.context_len))

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

        What the prefix cache holds of it is taken over. Returns False, and notes why, when it has to wait: policies
        then stop admitting, so nobody overtakes.
        """
        books = self.books
        self._make_way(request)
        if self._no_seat():
            return self.refuse(request, "max_requests", tokens)
        if books.free_tails == []:
            return self.refuse(request, "tails", tokens)
        while self._short_of(request) > 0 and self._yield_load(request):
            pass
        self._unpin_for(request)
        match = self._match(request)
        if match.next_hash in self._in_flight:
            return self.refuse(request, "prefix", tokens)
        needed = self.prefixes.blocks_needed(request, match)
        if needed > self._room(request):
            return self.refuse(request, "blocks", tokens, needed)
        if books.loads.begin(request, match):  # nobody has to wait for it
            self._found = (None, Match())
            return True
        books.waiting.remove(request)
        books.running.append(request)
        if books.free_tails is not None:
            request.tail = books.free_tails.pop()
        self.plan.admitted.append(request)
        self.prefixes.attach(request, match)
        books.loads.admitted(request)
        if books.time_to_live is not None:
            books.time_to_live.admitted(request)
        self._note_hit(request, match)
        self._note_evictions(request, needed)
        if swapped := books.preemption.tokens_of(request):
            self._found = (None, Match())
            ready = books.preemption.back(request)
            self._decide(request, "admitted", "swapped_in", swapped, needed)
            return self.compute(request, min(tokens, request.remaining)) if ready else True
        tokens = min(tokens, request.remaining)
        action = "chunked" if tokens < request.remaining else "admitted"
        self._decide(request, action, "budget" if action == "chunked" else "scheduled", tokens, needed)
        self._grant(request, tokens)
        return True

    def refuse(self, request: Request, reason: str, tokens: int, blocks_needed: int = -1) -> bool:
        """Note why admission stops here; always False."""
        self.plan.admission_stop = reason
        if self.books.is_news(request, reason):
            self._decide(request, "refused", reason, tokens, blocks_needed)
        return False

    @property
    def left(self) -> int:
        """Tokens left of the budget."""
        return self.plan.token_budget - self.tokens

    def _extend(self, request: Request, blocks: int) -> None:
        """Blocks that are free become the end of a request's table."""
        table, pool = request.block_table, self.pool
        grow = pool.blocks_for(request.most_computed_tokens) - len(table) - blocks
        table += pool.allocate(blocks, request.index, len(table), table[-1] if table else -1, grow)

    def _no_seat(self) -> bool:
        return len(self.books.running) >= self.books.max_num_seqs and not self.prefixes.reserves

    def _make_way(self, request: Request) -> None:
        """Where priorities change: preempt running requests of a lower one, as far as that gives the request a place.

        Not before they emit: else prompts that take longer than priorities last would be begun again for ever.
        """
        books = self.books
        if books.priorities is None:
            return
        lower = [r for r in books.running if r.priority < request.priority and not (r.is_prefilling or r.arriving)]
        lower.sort(key=lambda r: r.order)
        if not lower:
            return
        needed = self.prefixes.blocks_needed(request, self._match(request))
        if needed > self._room(request) + self._leaving() + sum(self.pool.memory_of(r.block_table) for r in lower):
            return
        while lower and (self._no_seat() or self._tails_left() == 0 or needed > self._room(request) + self._leaving()):
            self._preempt(lower.pop(), needed, "priority")

    def _yield_load(self, request: Request | None = None) -> bool:
        """Let go of blocks that are held for a waiting request; False where there are none. ``request``: who is to be
        admitted instead."""
        if not self.books.loads.yield_one(request):
            return False
        self._found = (None, Match())
        return True

    def _unpin_one(self, request: Request) -> bool:
        """Take a pin off blocks that a running request may need. False where there is none."""
        if self.books.time_to_live is None or not self.books.time_to_live.yield_one(request, later=False):
            return False
        self._found = (None, Match())
        return True

    def _unpin_for(self, request: Request) -> None:
        """Where a waiting request lacks blocks: take pins off those of programs that come after it, as far as that
        gives it a place; where nobody runs who could free any, off all."""
        time_to_live = self.books.time_to_live
        if time_to_live is None:
            return
        later = bool(self.books.running or list(self.books.preemption.in_transit()) or self.books.loads.coming)
        short = self._short_of(request)
        if short <= 0 or (later and time_to_live.could_free(request) < short):
            return
        while self._short_of(request) > 0 and time_to_live.yield_one(request, later=later):
            self._found = (None, Match())

    def _short_of(self, request: Request) -> int:
        """Blocks that a waiting request lacks; none where it is 0 or less."""
        return self.prefixes.blocks_needed(request, self._match(request)) - self._room(request)

    def _leaving(self) -> int:
        """Blocks that become free once copies have landed."""
        return sum(self.pool.memory_of(blocks) for blocks, _, _ in self.books.preemption.in_transit())

    def _tails_left(self) -> int | None:
        """Exact tails that are free, or become so once copies have landed; None where there are none at all."""
        free = self.books.free_tails
        leaving = [tail for _, tail, _ in self.books.preemption.in_transit() if tail is not None]
        return None if free is None else len(free) + len(leaving)

    def _grant(self, request: Request, tokens: int) -> None:
        first = request.num_computed_tokens
        self.plan.slices.append(Slice(request, tokens, first, request.is_prefilling))
        self.tokens += tokens
        self._found = (None, Match())
        if self.prefixes.waits:
            self._in_flight.update(self.prefixes.pending(request, first, first + tokens))

    def _room(self, request: Request) -> int:
        """Free blocks that admission may use for what is known of a request: others keep what they need to grow
        into."""
        running, pool = self.books.running, self.pool
        if self.prefixes.reserves:
            ahead = sum(pool.blocks_for(r.most_computed_tokens) - len(r.block_table) for r in running)
            own = pool.blocks_for(request.most_computed_tokens) - pool.blocks_for(request.num_known_tokens)
            return pool.num_free - ahead - own
        return pool.num_free - (pool.spare if running else 0)

    def _match(self, request: Request) -> Match:
        if self._found[0] is not request:
            match = self.prefixes.match(request, self._room(request))
            whole = match.whole_blocks * self.pool.block_size
            swapped = self.books.preemption.tokens_of(request)
            if swapped > whole + match.partial_tokens:  # whole blocks are found, the rest comes from the host
                match = match._replace(
                    partial=None, partial_tokens=0, next_hash=-1, lost_tokens=0, stored=(), declined=()
                )
            self._found = (request, match)
        return self._found[1]

    def _note_hit(self, request: Request, match: Match) -> None:
        if request.preemptions or request.first_token_ns is not None:
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

    def _preempt(self, victim: Request, blocks_needed: int, reason: str = "pool_full") -> None:
        books, plan = self.books, self.plan
        for part in plan.slices:
            if part.request is victim:
                plan.slices.remove(part)
                self.tokens -= part.tokens
                break
        computed, before = victim.num_computed_tokens, books.preemption.fallbacks
        free = self.pool.num_free
        kept = books.preempt(victim)
        reason = "host_full" if books.preemption.fallbacks > before else reason
        self._decide(victim, "preempted", reason, computed, blocks_needed, free, value=computed if kept else None)
        self._found = (None, Match())
        plan.preempted.append(victim)

    def _decide(
        self,
        request: Request,
        action: str,
        reason: str,
        tokens: int,
        blocks_needed: int = -1,
        free: int = -1,
        value: float | None = None,
    ) -> None:
        """``free``: blocks that were when it was decided; -1: those that are."""
        left = self.left if self.plan.token_budget >= 0 else -1
        free = self.pool.num_free if free < 0 else free
        self.plan.decisions.append(Decision(request.index, action, reason, tokens, left, blocks_needed, free, value))
