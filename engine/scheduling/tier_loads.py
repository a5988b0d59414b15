"""Prefixes of waiting requests are loaded from tiers beside the steps (CacheGen, 2023: loading does not stop serving).

    waiting --found in a tier--> being loaded, its blocks of the pool held --landed--> waiting, found in the pool
                                  not in any plan                                       its blocks held until admitted

A request is loaded for once until it has a place. What was loaded is published as if somebody had computed it, so the
request finds it there as any other would, and so may others. One that begins with a block on its way waits for that
load. Held blocks give way: to who runs and needs room, and to who is admitted before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.kv.kept import Load
from engine.kv.pool import BlockPool
from engine.kv.prefix import PrefixCache
from engine.kv.prefixes import Match, Node, Prefixes
from engine.kv.tiers import Tiers
from engine.request import Request


@dataclass(eq=False)
class _Held:
    """Blocks that are held for a request."""

    request: Request
    path: Sequence[Node]
    table: list[int]  # of the path, then those that are filled
    load: Load | None  # under way; None: landed
    behind: set[int] = field(default_factory=set)  # requests that wait for it, too
    gone: bool = False  # the request ended


class TierLoads:
    """Loads nothing: prefixes come between two steps, as a request is admitted. The contract of ``LoadsBeside``."""

    def begin(self, request: Request, match: Match) -> bool:
        """Begin to load what a waiting request was found to begin with, or wait for who does. False where it should be
        admitted instead."""
        return False

    def looked_up(self, request: Request) -> bool:
        """Whether ``begin`` has nothing to do for a waiting request."""
        return True

    def under_way(self, request: Request) -> bool:
        """Whether a waiting request is not to be admitted yet."""
        return False

    def hold_up(self, waiting: Sequence[Request], running: Sequence[Request]) -> bool:
        """Whether there are requests and all of them wait for loads."""
        return False

    def admitted(self, request: Request) -> None:
        """A request has its place, and what it found: it holds that itself."""

    def forget(self, request: Request) -> None:
        """A request ended."""

    def yield_one(self, besides: Request | None = None) -> bool:
        """Somebody needs blocks: let go of what is held for the least important waiting request, or wait for it and let
        go. False where nothing is held.

        Args:
            besides: the request that is to be admitted: then what is under way is left alone.
        """
        return False

    def settle(self) -> None:
        """Take in what has landed; called before an iteration is planned."""

    def wait(self) -> bool:
        """Wait for what lands next. False when nothing is under way."""
        return False

    def nap(self, seconds: float) -> None:
        """Wait for what lands next, at most so long."""

    def ahead(self, running: Sequence[Request], waiting: Sequence[Request]) -> None:
        """An iteration is planned, and computes next: begin to copy blocks out that will be evicted soon."""

    @property
    def coming(self) -> bool:
        """Whether loads are under way."""
        return False

    def tables(self) -> Sequence[list[int]]:
        """Blocks that are held, for each load."""
        return ()

    def close(self) -> None:
        """The run is over: nothing is held."""


class LoadsBeside(TierLoads):
    """Loads beside the steps."""

    def __init__(self, prefixes: PrefixCache, tiers: Tiers, pool: BlockPool) -> None:
        self._prefixes = prefixes
        self._tiers = tiers
        self._pool = pool
        self._held: list[_Held] = []  # in the order in which they land
        self._done: set[int] = set()  # numbers of requests for which nothing more is begun until they have a place

    def begin(self, request: Request, match: Match) -> bool:
        index, pool = request.index, self._pool
        if index in self._done:
            return False
        if not match.stored:
            self._done.add(index)
            return False
        first = match.stored[0]
        for held in self._held:
            if held.load is not None and any(piece.kept is first for piece in held.load.pieces):
                held.behind.add(index)
                self._done.add(index)
                return True
        taken = len(match.stored) + sum(1 for node in match.path if pool.is_evictable(node.block))
        if taken > pool.num_free:
            return False
        self._done.add(index)
        self._tiers.pin(match.stored)
        for position, node in enumerate(match.path):
            pool.share(node.block, index, position)
        table = [node.block for node in match.path]
        grow = pool.blocks_for(request.most_computed_tokens) - len(table) - len(match.stored)
        table += pool.allocate(len(match.stored), index, len(table), table[-1] if table else -1, grow)
        context = len(match.path) * pool.block_size
        load = self._tiers.begin(request, match.stored, table[len(match.path) :], context)
        self._held.append(_Held(request, match.path, table, load))
        return True

    def looked_up(self, request: Request) -> bool:
        return request.index in self._done

    def under_way(self, request: Request) -> bool:
        coming = (held for held in self._held if held.load is not None)
        return any(held.request is request or request.index in held.behind for held in coming)

    def hold_up(self, waiting: Sequence[Request], running: Sequence[Request]) -> bool:
        return bool(waiting) and not running and all(self.under_way(request) for request in waiting)

    def admitted(self, request: Request) -> None:
        self._done.discard(request.index)
        for held in [held for held in self._held if held.request is request]:
            self._drop(held)

    def forget(self, request: Request) -> None:
        self._done.discard(request.index)
        for held in list(self._held):
            held.behind.discard(request.index)
            if held.request is request:
                held.gone = True
                if held.load is None:
                    self._drop(held)
            if held.load is not None and held.gone and not held.behind:
                held.load.stop.set()  # nobody waits for it any more

    def yield_one(self, besides: Request | None = None) -> bool:
        landed = [held for held in self._held if held.load is None and held.request is not besides]
        if landed:
            self._drop(max(landed, key=lambda held: held.request.order))
            return True
        if besides is not None or not self._held:
            return False
        last = self._held[-1]
        assert last.load is not None
        last.load.stop.set()
        self._land(last)
        if last in self._held:
            self._drop(last)
        return True

    def settle(self) -> None:
        self._tiers.settle()
        for held in list(self._held):
            if held.load is not None and held.load.landed:
                self._land(held)

    def wait(self) -> bool:
        coming = next((held for held in self._held if held.load is not None), None)
        if coming is None:
            return False
        self._land(coming)
        return True

    def nap(self, seconds: float) -> None:
        coming = next((held.load for held in self._held if held.load is not None), None)
        if coming is not None:
            self._tiers.nap(coming, seconds)

    def ahead(self, running: Sequence[Request], waiting: Sequence[Request]) -> None:
        pool = self._pool
        soon = 2 * len(running) + pool.num_blocks // 32
        soon += sum(pool.blocks_for(request.num_known_tokens) for request in waiting[:2])
        self._tiers.ahead((self._prefixes.node_of(block), block) for block in pool.next_evicted(soon))

    @property
    def coming(self) -> bool:
        return any(held.load is not None for held in self._held)

    def tables(self) -> Sequence[list[int]]:
        return [held.table for held in self._held]

    def close(self) -> None:
        for held in self._held:
            if held.load is not None:
                held.load.stop.set()
        while self.wait():
            pass
        for held in list(self._held):
            self._drop(held)

    def _land(self, held: _Held) -> None:
        """A load is over, whole or in part."""
        assert held.load is not None
        blocks = len(held.path) + self._tiers.end(held.load)
        held.load = None
        held.behind.clear()
        found = self._prefixes.take_in(held.request, held.path, held.table, blocks)
        self._pool.free(held.table[found:], held.request.index, found)
        del held.table[found:]
        if held.gone or not held.table or not self._prefixes.settings.share_memory:
            self._drop(held)

    def _drop(self, held: _Held) -> None:
        """What was loaded stays where it is as long as there is room for it."""
        self._held.remove(held)
        self._pool.free(held.table, held.request.index)


def make_loads(prefixes: Prefixes, pool: BlockPool) -> TierLoads:
    """Who loads prefixes of waiting requests."""
    tiers = prefixes.tiers
    if tiers is None or not tiers.asynchronous:
        return TierLoads()
    assert isinstance(prefixes, PrefixCache)
    return LoadsBeside(prefixes, tiers, pool)
