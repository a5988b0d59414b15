"""Preempted requests are swapped to host memory (FastSwitch, 2024).

    running --out--> waiting, its blocks in transit until the copies have landed --> waiting, held by the host
       ^                                                                                      |
       '--- landed <--- running and arriving, not in any plan <-------------in---------------'

Blocks that are being copied belong to the copies (the conflict set): nothing is written to them. A block that others
hold too is copied like any other and left to them; when its request comes back, whatever the pool can still find of it
is shared and only the rest is copied in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from engine.block_table import whole_blocks
from engine.kv.checksums import Checksums
from engine.kv.copying import Copier, Ticket, pieces, runs
from engine.kv.host import HostCopy, HostPool
from engine.kv.pool import BlockPool
from engine.request import Request
from engine.scheduling.preemption import Move, Preemption
from telemetry.rows import COMPLETED

OUT, IN, AHEAD = "out", "in", "ahead"


@dataclass(eq=False)
class _Transfer:
    """Copies of one request under way."""

    request: Request
    direction: str
    ticket: Ticket
    tokens: int
    moved: int  # blocks that are copied
    kept: int  # blocks that need not be
    blocks: list[int] = field(default_factory=list)  # held until it has landed: places ``first``... of the table
    first: int = 0
    tail: int | None = None  # exact tail that is held likewise
    owner: int = -1  # request whose copy in host memory it reads or writes

    def __post_init__(self) -> None:
        self.owner = self.request.index if self.owner < 0 else self.owner


class Swap(Preemption):
    """Keeps what a preempted request computed in host memory, as long as there is room."""

    name = "swap"

    def __init__(
        self,
        pool: BlockPool,
        host: HostPool,
        copier: Copier,
        stores: Sequence[torch.Tensor],
        tail_stores: Sequence[torch.Tensor],
        *,
        grouped: bool,
        keep: bool,
        window: int | None,
        clock: Callable[[], int],
        continued: Mapping[str, int] | None = None,
        check: bool = False,
    ) -> None:
        """
        Args:
            stores, tail_stores: of the cache; the copier has both, in this order, with those of ``host``.
            grouped: neighbours are copied together.
            keep: a request that came back keeps its copy.
            window: tokens that the cache's codec packs together, 0 if each by itself; None: no codec.
            continued: numbers of the requests that go on where another one ends, by that one's name.
            check: compare every block that comes back with what left, byte by byte (slow; for tests).
        """
        self.pool = pool
        self.host = host
        self.free_tails: list[int] = []  # of the books
        self._copier = copier
        self._pairs = list(zip(stores, host.stores, strict=True))
        self._tail_pairs = list(zip(tail_stores, host.tail_stores, strict=True))
        self._grouped = grouped
        self._keep = keep
        self._continued = dict(continued or {}) if keep else {}
        self._window = window
        self._clock = clock
        self._under_way: list[_Transfer] = []  # in the order in which they land
        self._moves: list[Move] = []
        self._totals = dict.fromkeys(("swaps_out", "swaps_in", "swaps_ahead", "swap_copies", "swap_bytes"), 0.0)
        self._totals["swap_waited_s"] = 0.0
        self._checksums = Checksums(stores, tail_stores) if check else None

    def settle(self) -> None:
        while self._under_way and self._under_way[0].ticket.landed.is_set():
            self._land(self._under_way[0])

    def out(self, request: Request) -> bool:
        if request.arriving:
            self._finish(request)
        tokens, pool = request.num_computed_tokens, self.pool
        blocks = pool.blocks_for(tokens)
        if not tokens:
            return False
        tail = request.tail if self._window else None
        most = pool.blocks_for(request.most_computed_tokens)
        if not self.host.extend(request.index, blocks, most=most, tail=tail is not None, pinned=self._pinned()):
            self.fallbacks += 1
            self._finish(request)
            self.host.drop(request.index)
            return False
        copy = self.host.copy_of(request.index)
        assert copy is not None
        first = blocks if copy.complete == tokens else whole_blocks(copy.valid, pool.block_size)
        self._note_left(request, first, blocks, tail)
        ticket = self._start(request.block_table, copy, first, blocks, tail, to_host=True)
        copy.tokens = copy.complete = tokens
        copy.valid = self._final(tokens)
        ahead = [t.first for t in self._under_way if t.owner == request.index]
        held = blocks if ticket.landed.is_set() else min([first, *ahead])
        pool.free(request.block_table[blocks:], request.index, blocks)
        transfer = _Transfer(request, OUT, ticket, tokens, blocks - first, first)
        transfer.blocks, transfer.first = request.block_table[held:blocks], held
        request.block_table = request.block_table[:held]
        if not ticket.landed.is_set():
            transfer.tail, request.tail = request.tail, None
        self._add(transfer)
        return True

    def tokens_of(self, request: Request) -> int:
        copy = self.host.copy_of(request.index)
        if copy is None:
            return 0
        if copy.given:  # all but the last token at most: that one gives the next
            return min(
                copy.valid, self.pool.block_size * whole_blocks(request.num_known_tokens - 1, self.pool.block_size)
            )
        return copy.tokens

    def back(self, request: Request) -> bool:
        copy = self.host.copy_of(request.index)
        assert copy is not None
        tokens, size = self.tokens_of(request), self.pool.block_size
        copy.given = False
        if request.num_computed_tokens >= tokens:  # the pool still had all of it
            copy.tokens = 0
            return True
        first, blocks = whole_blocks(request.num_computed_tokens, size), self.pool.blocks_for(tokens)
        ticket = self._start(request.block_table, copy, first, blocks, request.tail, to_host=False)
        request.arriving = True
        self._add(_Transfer(request, IN, ticket, tokens, blocks - first, first, first=first))
        return not request.arriving

    def free_some(self) -> bool:
        transfer = next((t for t in self._under_way if t.blocks), None)
        if transfer is None:
            return False
        self._wait_for(transfer)
        return True

    def wait(self) -> bool:
        transfer = next((t for t in self._under_way if t.direction != AHEAD), None)
        if transfer is None:
            return False
        self._wait_for(transfer)
        return True

    def ahead(self, running: Sequence[Request], settled: Callable[[Request], int]) -> None:
        """Copy whole blocks of those who would go next, once free blocks get short: what is computed never changes, so
        a preemption then has little left to send."""
        size, short = self.pool.block_size, 2 * len(running) + self.pool.num_blocks // 32
        if not self._copier.asynchronous or self.pool.num_free > short:
            return
        covered = 0
        for request in sorted(running, key=lambda r: r.order, reverse=True)[:-1]:
            if covered > short:
                return
            blocks = min(whole_blocks(self._final(request.num_computed_tokens), size), settled(request))
            covered += blocks
            copy = self.host.copy_of(request.index)
            first = 0 if copy is None else whole_blocks(copy.valid, size)
            under_way = self._pinned()
            if request.index in under_way or blocks <= first:
                continue
            most = self.pool.blocks_for(request.most_computed_tokens)
            if not self.host.extend(request.index, blocks, most=most, pinned=under_way):
                return
            copy = self.host.copy_of(request.index)
            assert copy is not None
            self._note_left(request, first, blocks, None)
            ticket = self._start(request.block_table, copy, first, blocks, None, to_host=True)
            copy.valid = blocks * size
            tokens = request.num_computed_tokens
            self._add(_Transfer(request, AHEAD, ticket, tokens, blocks - first, first, first=first))

    def forget(self, request: Request) -> None:
        follower = self._continued.get(request.request_id)
        if follower is None or request.end_reason not in COMPLETED or not self._hand_on(request, follower):
            self._finish(request)
            self.host.drop(request.index)

    def _hand_on(self, request: Request, follower: int) -> bool:
        """A turn ended: what it computed is kept for the next one, as whole blocks. False where there is no room."""
        pool, size = self.pool, self.pool.block_size
        tokens = min(request.num_computed_tokens, len(request.token_ids) - 1)
        blocks = whole_blocks(self._final(tokens), size)
        if not blocks or not self.host.extend(request.index, blocks, pinned=self._pinned()):
            return False
        copy = self.host.copy_of(request.index)
        assert copy is not None
        first = min(blocks, whole_blocks(copy.valid, size))
        self._note_left(request, first, blocks, None, follower)
        ticket = self._start(request.block_table, copy, first, blocks, None, to_host=True)
        self.host.drop_tail(copy)
        copy.valid, copy.tokens, copy.complete, copy.given = blocks * size, 0, -1, True
        under_way = [t for t in self._under_way if t.owner == request.index]
        held = blocks if ticket.landed.is_set() else min([first, *(t.first for t in under_way)])
        self.host.hand_on(request.index, follower)
        for transfer in under_way:
            transfer.owner = follower
        transfer = _Transfer(request, OUT, ticket, blocks * size, blocks - first, first, owner=follower)
        transfer.blocks, transfer.first = request.block_table[held:blocks], held
        pool.free(request.block_table[blocks:], request.index, blocks)
        request.block_table = request.block_table[:held]
        self._add(transfer)
        return True

    def in_transit(self) -> Iterable[tuple[list[int], int | None, int]]:
        size = self.pool.block_size
        leaving = [t for t in self._under_way if t.direction == OUT]
        return [(t.blocks, t.tail, t.tokens - t.first * size if t.blocks else 0) for t in leaving]

    def take_moves(self) -> list[Move]:
        moves, self._moves = self._moves, []
        return moves

    def describe(self) -> dict[str, float]:
        return self._totals | {"swap_fallbacks": self.fallbacks}

    def close(self) -> None:
        while self._under_way:
            self._wait_for(self._under_way[0])
        self._copier.close()

    def check_integrity(self) -> None:
        self.host.check_integrity()

    def _start(
        self, table: Sequence[int], copy: HostCopy, first: int, last: int, tail: int | None, *, to_host: bool
    ) -> Ticket:
        """Begin to copy places ``first`` to ``last`` (not included) of a block table, and an exact tail."""
        moved = runs(table[first:last], copy.table[first:last], grouped=self._grouped)
        cut = pieces(self._pairs, moved)
        if tail is not None and copy.tail is not None and (first < last or not to_host):
            cut += pieces(self._tail_pairs, [(tail, copy.tail, 1)], len(self._pairs))
        return self._copier.start(cut, to_host=to_host)

    def _note_left(self, request: Request, first: int, last: int, tail: int | None, follower: int = -1) -> None:
        """For tests: what goes to the host is held against what comes back, to who goes on where there is somebody."""
        if self._checksums is not None:
            self._checksums.left(request.index, first, request.block_table[first:last], tail)
            if follower >= 0:
                self._checksums.hand_on(request.index, follower)

    def _add(self, transfer: _Transfer) -> None:
        self._under_way.append(transfer)
        self.settle()

    def _final(self, tokens: int) -> int:
        """Of so many computed tokens, those whose blocks will not be written again."""
        if not self._window:
            return tokens
        return max(0, self._packed(tokens) - self._window)

    def _packed(self, tokens: int) -> int:
        """Of so many computed tokens, those in whole windows."""
        return tokens - tokens % (self._window or 1)

    def _pinned(self) -> frozenset[int]:
        return frozenset(t.owner for t in self._under_way)

    def _finish(self, request: Request) -> None:
        """Wait for all copies of one request."""
        for transfer in [t for t in self._under_way if t.owner == request.index]:
            self._wait_for(transfer)

    def _wait_for(self, transfer: _Transfer) -> None:
        if transfer in self._under_way:
            self._copier.wait(transfer.ticket)
            while transfer in self._under_way:
                self._land(self._under_way[0])

    def _land(self, transfer: _Transfer) -> None:
        """The copies are there: free what they held, or let the request go on."""
        self._copier.wait(transfer.ticket)  # raises what went wrong
        self._under_way.remove(transfer)
        request, ticket = transfer.request, transfer.ticket
        if transfer.direction == OUT:
            self.pool.free(transfer.blocks, request.index, transfer.first)
            if transfer.tail is not None:
                self.free_tails.append(transfer.tail)
        elif transfer.direction == IN:
            self._arrive(transfer)
        self._totals[f"swaps_{transfer.direction}"] += 1
        self._totals["swap_copies"] += len(ticket.pieces)
        self._totals["swap_bytes"] += ticket.nbytes
        self._totals["swap_waited_s"] += ticket.waited_ns / 1e9
        self._moves.append(
            Move(
                request.index,
                transfer.direction,
                ticket.asked_ns,
                ticket.start_ns,
                ticket.end_ns,
                ticket.waited_ns,
                transfer.tokens,
                transfer.moved,
                transfer.kept,
                len(ticket.pieces),
                ticket.nbytes,
            )
        )

    def _arrive(self, transfer: _Transfer) -> None:
        request, pool = transfer.request, self.pool
        copy = self.host.copy_of(request.index)
        assert copy is not None
        request.arriving = False
        if self._checksums is not None:
            there = request.block_table[transfer.first : pool.blocks_for(transfer.tokens)]
            self._checksums.compare(
                request.index, transfer.first, there, request.tail if copy.tail is not None else None
            )
        request.num_computed_tokens = transfer.tokens
        for place in range(transfer.first, whole_blocks(transfer.tokens, pool.block_size)):
            pool.filled(request.block_table[place], request.index, place)
            if self._window is not None and (place + 1) * pool.block_size <= self._packed(transfer.tokens):
                pool.quantised(request.block_table[place], request.index, place)
        if self._copier.asynchronous and not request.is_prefilling:  # it may not be in the very next plan
            pool.free(request.block_table[(held := pool.blocks_for(transfer.tokens)) :], request.index, held)
            del request.block_table[held:]
        copy.tokens = 0
        if not self._keep:
            self.host.drop(request.index)
        elif copy.tail is not None:
            self.host.drop_tail(copy)
            copy.complete = -1  # its tail goes on changing
