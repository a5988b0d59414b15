"""The decode half where both have one pool: it takes over the blocks of a prompt, and copies nothing.

A request that was handed over and waits for a place here holds its blocks. Where somebody lacks one, the youngest of
those loses them and is computed again here, as any request that has to leave. The prefill half leaves what is wanted
here, so whoever waits first gets it once the prompts under way have ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from engine.halves.cores import Cores
from engine.halves.decode import HalvesRecorder, Receiver
from engine.halves.line import Line, Prefilled, Report
from engine.halves.one_pool import OnePool
from engine.halves.shares import Mover
from engine.kv.prefixes import Match, Prefixes
from engine.loop import IDLE_SLEEP_S
from engine.request import Request
from engine.scheduling.books import Books
from telemetry.clock import RunClock


class Taker(Receiver):
    """See above. Planning locks the pool's books, from ``settle`` to ``ahead``."""

    name = "recompute"

    def __init__(
        self, pool: OnePool, line: Line, *, recorder: HalvesRecorder, clock: RunClock, cores: Cores, mover: Mover | None
    ) -> None:
        """``mover``: of the share; None: it stays."""
        self.pool = pool
        self.line = line
        self.queue: Books | None = None  # this half's, once there is one
        self._recorder = recorder
        self._clock = clock
        self._cores = cores
        self.mover = mover
        self._waits: dict[int, tuple[Request, Prefilled]] = {}  # handed over, without a place here
        self._decoded_ns: int | None = None  # when the last step was planned, if it decoded anything
        self._totals = {"handed_over": 0, "recomputed_in_decode": 0}

    def handed_over(self, request: Request, prefilled: Prefilled) -> None:
        if self.mover is not None:
            self.mover.first_token((prefilled.first_token_ns - request.arrival_ns) / 1e6)
        if prefilled.blocks:
            self.pool.take_over(prefilled.blocks)
            self._waits[request.index] = request, prefilled
        else:
            self._compute_again(request)

    def decline(self, prefilled: Prefilled) -> None:
        self.pool.take_over(prefilled.blocks)
        self.pool.free(prefilled.blocks, prefilled.request)

    def look(self, waiting: Sequence[Request]) -> None:
        assert self.queue is not None
        if not self.queue.has_work:
            self.pool.books["wanted"] = 0
        if self.mover is not None:
            contexts = [request.num_computed_tokens for request in self.queue.running]
            asked = [(request.arrival_ns, request.num_prompt_tokens) for request in waiting]
            self.mover.look(self._clock.now_ns(), asked, contexts)

    def rest(self) -> None:
        self._decoded_ns = None
        self._cores.rest()

    def settle(self) -> None:
        assert self.queue is not None
        self.pool.books.lock()
        self._cores.claim()
        self._recorder.threads = self._cores.count
        waiting, running = self.queue.waiting, self.queue.running
        first = waiting[0] if waiting else None
        needed = 0 if first is None else self.pool.blocks_for(first.num_known_tokens) - len(self.blocks_of(first))
        self.pool.books["wanted"] = max(self.pool.spare, len(running) + len(self._waits), needed)
        now = self._clock.now_ns()
        if self.mover is not None and self._decoded_ns is not None:
            self.mover.gap((now - self._decoded_ns) / 1e6)
        self._decoded_ns = now if running else None

    def ahead(self, running: Sequence[Request], settled: Any) -> None:
        self.pool.books.unlock()

    def blocks_of(self, request: Request) -> Sequence[int]:
        """Those that a waiting request holds."""
        return self._waits[request.index][1].blocks if request.index in self._waits else ()

    def tokens_of(self, request: Request) -> int:
        return request.num_prompt_tokens if request.index in self._waits else 0

    def back(self, request: Request) -> bool:
        _, prefilled = self._waits.pop(request.index)
        request.cached_tokens = prefilled.cached_tokens
        request.num_computed_tokens = request.num_prompt_tokens
        now = self._clock.now_ns()
        self._totals["handed_over"] += 1
        self._recorder.handover(
            request=request.index, prefilled_ns=prefilled.first_token_ns, asked_ns=now, start_ns=now, end_ns=now,
            joined_ns=now, tokens=request.num_prompt_tokens, blocks=0, blocks_kept=len(prefilled.blocks), copies=0,
            bytes=0,
        )  # fmt: skip
        return True

    def out(self, request: Request) -> bool:
        self._totals["recomputed_in_decode"] += 1
        return False

    def forget(self, request: Request) -> None:
        if request.index in self._waits:
            _, prefilled = self._waits.pop(request.index)
            self.pool.free(prefilled.blocks, request.index)

    def free_some(self) -> bool:
        """Whoever waits with blocks and came last loses them."""
        if not self._waits:
            return False
        self._drop(max((request for request, _ in self._waits.values()), key=lambda r: r.order))
        return True

    def wait(self) -> bool:
        """Nobody has a place, as others hold the blocks: those who wait behind the first here, or prompts under way.

        Raises:
            HalfLost: the prefill half, which has them, is gone.
        """
        assert self.queue is not None
        if not self.queue.waiting:
            return False
        first = self.queue.waiting[0]
        behind = [request for request, _ in self._waits.values() if request.order > first.order]
        if behind:
            self._drop(max(behind, key=lambda r: r.order))
            return True
        self._cores.rest()
        with self.pool.books.open_meanwhile():
            heard = self.line.received(IDLE_SLEEP_S)
            time.sleep(IDLE_SLEEP_S / 10 if heard else 0)  # what is put back is there at once
        self.line.put_back([self._without_blocks(message) for message in heard])
        self._cores.claim()
        return True

    def in_transit(self) -> Iterable[tuple[list[int], int | None, int]]:
        return [(list(held.blocks), None, request.num_prompt_tokens) for request, held in self._waits.values()]

    def describe(self) -> dict[str, float]:
        moves = 0 if self.mover is None else self.mover.moves
        return {**self._totals, "share_moves": moves}

    def _without_blocks(self, message: Any) -> Any:
        """What the other half says, with the prompts that it hands over to be computed again here."""
        if not isinstance(message, Report) or not message.prefilled:
            return message
        for prefilled in message.prefilled:
            if prefilled.blocks:
                self.decline(prefilled)
        return message._replace(prefilled=[replace(prefilled, blocks=()) for prefilled in message.prefilled])

    def _drop(self, request: Request) -> None:
        _, prefilled = self._waits.pop(request.index)
        self.pool.free(prefilled.blocks, request.index)
        self._compute_again(request)

    def _compute_again(self, request: Request) -> None:
        request.reset_for_recompute()
        self._totals["recomputed_in_decode"] += 1


class TakenOver(Prefixes):
    """Gives a request that was handed over the blocks that it holds already."""

    def __init__(self, pool: OnePool, taker: Taker, window_blocks: int | None) -> None:
        super().__init__(pool, window_blocks)
        self._taker = taker

    def blocks_needed(self, request: Request, match: Match) -> int:
        held = len(self._taker.blocks_of(request))
        return self.pool.cost(self.pool.blocks_for(request.num_known_tokens) - held)

    def attach(self, request: Request, match: Match) -> None:
        held = list(self._taker.blocks_of(request))
        more = self.pool.blocks_for(request.num_known_tokens) - len(held)
        request.block_table = held + self.pool.allocate(more, request.index, len(held))
