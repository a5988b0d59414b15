"""The prefill half: an engine whose requests end with their first token, and whose blocks then wait to be fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.arrivals import Arrivals
from engine.halves.cores import Cores
from engine.halves.line import Call, Free, GiveUp, HalfLost, Line, Prefill, Prefilled, Report
from engine.halves.one_pool import OnePool
from engine.halves.shared import checksums
from engine.kv.pool import BlockPool
from engine.loop import IDLE_SLEEP_S, Engine
from engine.request import Request
from engine.scheduling.preemption import Preemption
from telemetry.clock import RunClock
from telemetry.recorder import Level
from telemetry.rows import COMPLETED

STATE = ("running", "waiting", "blocks_used", "blocks_cached", "blocks_shared", "blocks_spared", "kv_tokens")
"""Columns of the iteration rows that say how things stand, and not what a step did."""


class HandOver(Preemption):
    """Keeps the blocks of requests that have their first token until the decode half has fetched them.

    While they fill the pool, planning waits: prompts are computed no faster than the decode half takes them.
    """

    def __init__(self, pool: BlockPool, stores: Sequence[torch.Tensor], line: Line) -> None:
        """``stores``: of the cache, [stripes, blocks, bytes] uint8."""
        self.pool = pool
        self.line = line
        self.asked: list[Prefill] = []  # heard and not taken yet
        self.given_up: list[int] = []
        self.handed: list[Request] = []  # since the last report
        self.prefilled: dict[int, tuple[list[int], list[int]]] = {}  # blocks and checksums, of those handed over
        self._held: dict[int, tuple[list[int], int]] = {}  # blocks and tokens
        self._stores = [store.numpy() for store in stores]

    def hear(self, wait_s: float = 0.0) -> bool:
        """Take in what the decode half said by now, or says first within ``wait_s``; whether blocks became free."""
        freed = False
        try:
            messages = self.line.received(wait_s) if self.line.is_open else []
        except HalfLost:
            messages = []
        for message in messages:
            if isinstance(message, Prefill):
                self.asked.append(message)
            elif isinstance(message, GiveUp):
                self.given_up.append(message.request)
            elif isinstance(message, Free):
                freed = self.let_go(message.request) or freed
        return freed

    def settle(self) -> None:
        self.hear()

    def forget(self, request: Request) -> None:
        if request.end_reason not in COMPLETED:
            return
        held = self.pool.blocks_for(request.num_computed_tokens)
        self.prefilled[request.index] = request.block_table[:held], checksums(self._stores, request.block_table[:held])
        self._held[request.index] = request.block_table, request.num_computed_tokens
        request.block_table = []
        self.handed.append(request)

    def free_some(self) -> bool:
        return self.wait()

    def wait(self) -> bool:
        while self._held and self.line.is_open:
            if self.hear(IDLE_SLEEP_S):
                return True
        return False

    def rest(self) -> None:
        """This half has nothing to do."""

    def in_transit(self) -> list[tuple[list[int], int | None, int]]:
        return [(blocks, None, tokens) for blocks, tokens in self._held.values()]

    def close(self) -> None:
        for number in list(self._held):
            self.let_go(number)

    def let_go(self, number: int) -> bool:
        """Free the blocks of a request that was handed over; whether there were any."""
        if number not in self._held:
            return False
        self.pool.free(self._held.pop(number)[0], number)
        return True


class PassOn(HandOver):
    """The same where both halves have one pool: blocks change hands, and stay where they are.

    Planning locks the pool's books, from ``settle`` to ``ahead``. While others hold the blocks, it waits.
    """

    def __init__(self, pool: OnePool, line: Line, cores: Cores, relay: Relay) -> None:
        super().__init__(pool, (), line)
        self._pool = pool
        self._cores = cores
        self._relay = relay

    def settle(self) -> None:
        self.hear()
        self._pool.books.lock()
        self._claim()

    def ahead(self, running: Sequence[Request], settled: Any) -> None:
        self._pool.books.unlock()

    def forget(self, request: Request) -> None:
        if request.end_reason not in COMPLETED:
            return
        held = self._pool.blocks_for(request.num_computed_tokens)
        blocks, request.block_table = request.block_table[:held], request.block_table[held:]
        self._pool.hand_over(blocks)
        self.prefilled[request.index] = blocks, []
        self.handed.append(request)

    def wait(self) -> bool:
        self.rest()
        with self._pool.books.open_meanwhile():
            self.hear(IDLE_SLEEP_S)
        self._claim()
        return self.line.is_open

    def free_some(self) -> bool:
        return False

    def rest(self) -> None:
        self._cores.rest()

    def _claim(self) -> None:
        self._cores.claim()
        self._relay.threads = self._cores.count


@dataclass
class Relay:
    """Stands in for the recorder: its rows go to the decode half, which has the run's only one."""

    run_dir: Path
    clock: RunClock
    level: Level
    threads: int | None = None  # that this half computes on
    calls: list[Call] = field(default_factory=list)
    ended: dict[int, dict[str, Any]] = field(default_factory=dict)  # rows of requests that are to be handed over

    @property
    def detail(self) -> bool:
        return self.level == "full"

    @property
    def iterations(self) -> bool:
        return self.level != "off"

    def iteration(self, **values: Any) -> None:
        self.calls.append(Call("iteration", (), values | {"half_threads": self.threads}))

    def slices(self, iteration: int, **values: Any) -> None:
        if isinstance(values.get("itl_ns"), np.ndarray):
            values["itl_ns"] = values["itl_ns"].tolist()
        self.calls.append(Call("slices", (iteration,), values))

    def decision(self, iteration: int, action: str, reason: str, **values: Any) -> None:
        self.calls.append(Call("decision", (iteration, action, reason), values))

    def blocks(self, iteration: int, **values: Any) -> None:
        self.calls.append(Call("blocks", (iteration,), values))

    def request(self, **values: Any) -> None:
        if values["end_reason"] in COMPLETED:
            self.ended[values["request"]] = values


class PrefillArrivals(Arrivals):
    """Requests that the decode half sends. Every look at them also reports what was done since the last one."""

    def __init__(self, hand_over: HandOver, relay: Relay, engine: Engine, make: Callable[[Prefill], Request]) -> None:
        super().__init__(())
        self._hand_over = hand_over
        self._relay = relay
        self._engine = engine
        self._make = make
        self._here: dict[int, Request] = {}
        self._said: dict[str, int] = {}
        self.outstanding = 1

    def pop_due(self, now_ns: int) -> list[Request]:
        self._hand_over.hear()
        self._report()
        asked, self._hand_over.asked = self._hand_over.asked, []
        arrived = [self._make(message) for message in asked]
        self._here.update((request.index, request) for request in arrived)
        self.came += len(arrived)
        return arrived

    def pop_given_up(self, now_ns: int) -> list[Request]:
        given_up, self._hand_over.given_up = self._hand_over.given_up, []
        gone = [self._here[number] for number in given_up if number in self._here]
        for number in set(given_up) - {request.index for request in gone}:
            self._hand_over.let_go(number)  # it was handed over meanwhile
        return gone

    def ended(self, request: Request, now_ns: int) -> None:
        self._here.pop(request.index, None)

    def wait(self, seconds: float) -> None:
        self._hand_over.rest()
        self._hand_over.hear(seconds)

    def _report(self) -> None:
        """Tell the decode half what it does not know yet."""
        state = self._state()
        relay, over = self._relay, self._hand_over
        prefilled = [self._prefilled(request) for request in over.handed]
        if relay.calls or prefilled or state != self._said:
            over.line.send(Report(relay.calls, prefilled, state))
        relay.calls, over.handed, self._said = [], [], state

    def _prefilled(self, request: Request) -> Prefilled:
        blocks, sums = self._hand_over.prefilled.pop(request.index)
        row = self._relay.ended.pop(request.index)
        return Prefilled(
            request.index,
            request.output_token_ids[0],
            blocks,
            sums,
            row["first_scheduled_ns"],
            row["first_token_ns"],
            row["cached_tokens"],
        )

    def _state(self) -> dict[str, int]:
        scheduler = self._engine.scheduler
        pool = scheduler.pool
        values = (
            len(scheduler.running),
            len(scheduler.waiting),
            pool.num_used,
            pool.num_cached,
            pool.num_shared,
            pool.num_spared,
            scheduler.kv_tokens,
        )
        return dict(zip(STATE, values, strict=True))
