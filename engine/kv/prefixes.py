"""What the scheduler asks of prefix sharing, and the answer where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from engine.block_table import whole_blocks
from engine.kv.pool import BlockPool
from engine.request import Request

if TYPE_CHECKING:
    from engine.kv.kept import Kept
    from engine.kv.tiers import Tiers


class Node:
    """A published block: its tokens after its parent's. ``block`` is -1 for a root, and once the content is lost."""

    __slots__ = ("block", "children", "hash", "parent", "tokens")

    def __init__(self, block: int, hash: int, tokens: Sequence[int], parent: Node | None) -> None:
        self.block = block
        self.hash = hash
        self.tokens = tokens
        self.parent = parent
        self.children: dict[int, list[Node]] = {}  # by their first token

    @property
    def findable(self) -> bool:
        return self.block >= 0 or self.parent is None


class Match(NamedTuple):
    """What the pool holds of a request's prompt."""

    path: tuple[Node, ...] = ()  # whole blocks from the first token on
    partial: Node | None = None  # a block whose first ``partial_tokens`` come next
    partial_tokens: int = 0
    next_hash: int = -1  # of the first whole block that was not found; -1 if there is none
    lost_tokens: int = 0  # tokens after the match that had been cached and were evicted
    stored: tuple[Kept, ...] = ()  # whole blocks after the path that are loaded from tiers below the pool
    declined: tuple[Kept, ...] = ()  # and those after them that are found there, and computed again in less time

    @property
    def whole_blocks(self) -> int:
        """Whole blocks found, in the pool and below it."""
        return len(self.path) + len(self.stored)


NOTHING = Match()


class Prefixes:
    """Finds nothing and keeps nothing: the pool without prefix sharing, and the contract of the one with it."""

    waits = False  # a request waits for a block that another one computes in the same step
    looks_up = False  # prompts are looked up before they are computed
    tiers: Tiers | None = None  # where evicted blocks are kept
    reserves = False  # a request is admitted only when all it may grow to fits, however many run

    def __init__(self, pool: BlockPool, window_blocks: int | None = None) -> None:
        """``window_blocks``: blocks that the cache's codec packs together, 0 if each token is packed by itself; None:
        no codec."""
        self.pool = pool
        self._window = window_blocks
        self._unit = window_blocks or 1  # blocks that can be found only together

    def match(self, request: Request, room: int) -> Match:
        """The longest prefix of a waiting request that the pool holds, at most all but its last token. Changes nothing.

        ``room``: free blocks that may be used. Whatever part of the match needs more than is there is left out, so a
        match never keeps a request waiting that would have a place without it.
        """
        return NOTHING

    def blocks_needed(self, request: Request, match: Match) -> int:
        """Free blocks it takes to give the request a place for all its tokens; cached blocks that it takes over
        count."""
        return self.pool.cost(self.pool.blocks_for(request.num_known_tokens))

    def attach(self, request: Request, match: Match) -> None:
        """Fill the request's block table and set its ``num_computed_tokens`` to what was found.

        Raises:
            PoolExhausted: fewer than ``blocks_needed`` blocks are free.
        """
        blocks = self.pool.blocks_for(request.num_known_tokens)
        grow = self.pool.blocks_for(request.most_computed_tokens) - blocks
        request.block_table = self.pool.allocate(blocks, request.index, 0, grow=grow)

    def pending(self, request: Request, first: int, last: int) -> Sequence[int]:
        """Hashes of the whole blocks that hold the request's tokens ``first`` to ``last``."""
        return ()

    def computed(self, request: Request, before: int, after: int) -> None:
        """The request's tokens from ``before`` to ``after`` were computed; publish the blocks they filled."""
        size = self.pool.block_size
        first, last = whole_blocks(before, size), whole_blocks(after, size)
        for position in range(first, last):
            self.pool.filled(request.block_table[position], request.index, position)
        if self._window is not None:
            for position in range(self._whole(first), self._whole(last)):
                self.pool.quantised(request.block_table[position], request.index, position)

    def settled(self, request: Request) -> int:
        """Blocks at the beginning of a running request's table that stay in it as long as it runs: those behind them
        may yet be exchanged for others of the same content."""
        return len(request.block_table)

    def tip(self, request: Request) -> Node | None:
        """The last of the blocks of a running request that can be found, or could be; None where none was looked
        for."""
        return None

    def _whole(self, blocks: int) -> int:
        """The blocks of whole windows among a sequence's first ``blocks``."""
        return blocks - blocks % self._unit

    def release(self, request: Request) -> None:
        """The request ended or was preempted: its blocks are free, and found as long as they last."""
        self.pool.free(request.block_table, request.index)
        request.block_table = []

    def rank(self, waiting: Sequence[Request]) -> None:
        """Put waiting requests in the order that shares best, by their ``rank``; called when new ones have come."""

    def take_evicted(self) -> int:
        """Blocks evicted since the last call."""
        return 0

    def check_integrity(self) -> None:
        """Raises ``IntegrityError`` where pool and index disagree."""
