"""A run in two processes that have one KV pool and one copy of the weights, each on cores of its own.

The run's process loads the model and lays out the pool, then forks the prefill half: what both only read, such as
weights in the order in which they are multiplied, stays one in memory, and the pool is mapped by both. Until then
nothing is computed in more than one thread, as threads do not outlive a fork.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engine.config import Placement, RunSpec
from engine.cost import cost_model
from engine.executor import Executor
from engine.halves.child import answer_for, live_under
from engine.halves.cores import Cores, place_on
from engine.halves.decode import HalvesRecorder, Receiver
from engine.halves.line import HalfLost, Line, Ready, line_pair
from engine.halves.one_pool import COUNTS, OTHER, Books, Half, OnePool, SharedBooks
from engine.halves.prefill import PassOn, Relay
from engine.halves.shared import SharedSpace, nameless_file
from engine.halves.shares import Mover, Slowdown, by_bounds, by_cost
from engine.halves.taker import TakenOver, Taker
from engine.kv.cache import KVCache
from engine.kv.pool import BlockEvent, BlockPool
from engine.kv.prefixes import Prefixes
from engine.loop import Engine
from engine.phases import Progress
from engine.scheduling.preemption import Preemption
from engine.speculation.speculator import Speculator
from engine.start.build import Parts, allocate, build_engine, make_cache
from engine.start.halves import DecodeSide, half_of, prefill_until_closed, ready_of, threads_of_both
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.warmup import warm_up
from telemetry.clock import RunClock
from telemetry.memory_shared import anonymous_bytes

CLOSING_S = 2.0
LOOK_S = 0.02


@dataclass(frozen=True)
class Common:
    """What both halves have: made once, before there are two."""

    cache: KVCache
    books: SharedBooks
    cores: int
    place: Callable[[Half, int], None]  # makes a half's process compute on so many cores


def in_common(spec: RunSpec, prepared: Prepared, place: Callable[[Half, int], None]) -> Common:
    """``prepared``: for either half.

    Raises:
        EngineError: there is no room for the pool.
        OSError: the system gives no memory that processes share.
    """
    file = nameless_file()
    try:
        cache = make_cache(prepared, prepared.num_blocks, prepared.tails, SharedSpace(file))
    finally:
        os.close(file)  # the mapping stays
    books, total = SharedBooks(prepared.num_blocks), threads_of_both(spec)
    decode = half_of(spec, "decode").engine.threads
    assert decode is not None
    mine = Books(books, "decode")
    mine["share"] = mine["prefill_cores"] = total - decode
    mine["decode_cores"] = decode
    mine.close()
    return Common(cache, books, total, place)


def first_share(common: Common) -> int:
    """The prefill half's cores at first."""
    return common.books.counts[COUNTS["share"]]


def placing(total: int) -> Callable[[Half, int], None]:
    """Prefill has the first of the cores that this process may use, decode the last."""
    cores = sorted(os.sched_getaffinity(0))[:total]

    def place(half: Half, count: int) -> None:
        place_on(cores[:count] if half == "prefill" else cores[-count:])

    return place


class ForkedHalf:
    """The prefill half as a fork of this process, and this end of the line to it."""

    def __init__(self, prepared: Prepared, common: Common, run_dir: Path) -> None:
        """``prepared``: for the prefill half. Raises OSError where no process can be started."""
        mine, its = line_pair()
        gc.collect()
        gc.freeze()  # else a collection would write to every object, and pages with them be copied
        before = anonymous_bytes().shared
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            mine.close()
            os._exit(_be_prefill(prepared, common, run_dir, its, parent, before))
        its.close()
        self.line = Line(mine, "prefill")
        self.common = common
        self.shared_before = before

    def side(self, prepared: Prepared) -> PartitionedSide:
        """Waits until the other half is ready; see ``DecodeSide``."""
        return PartitionedSide(self.line, prepared, self.common, ready_of(self.line), self.shared_before)

    def close(self) -> None:
        """End the process, at the latest some seconds from now."""
        self.line.close()
        until = time.monotonic() + CLOSING_S
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                break
            time.sleep(LOOK_S)
        self.common.books.close()


def begin(spec: RunSpec, run_dir: Path, progress: Progress) -> tuple[Prepared, ForkedHalf]:
    """Load the model, lay out the pool and fork the prefill half. Returns what is prepared for the decode half.

    Raises:
        EngineError: the run cannot be served so; it names the setting.
    """
    place = placing(threads_of_both(spec))
    shares = {half: half_of(spec, half) for half in OTHER}
    alone = spec.model_copy(update={"engine": spec.engine.model_copy(update={"threads": 1})})
    prepared = prepare(alone, progress)
    common = in_common(spec, prepared, place)
    prepared = replace(prepared, cache=common.cache)
    other = ForkedHalf(replace(prepared, spec=shares["prefill"], guesser=None), common, run_dir)
    torch.set_num_threads(common.cores - first_share(common))  # and on cores of its own once the clock starts
    return replace(prepared, spec=shares["decode"]), other


def _be_prefill(prepared: Prepared, common: Common, run_dir: Path, end: socket.socket, parent: int, before: int) -> int:
    """In the fork: returns the exit code."""
    live_under(parent)
    line = Line(end, "decode")

    def work() -> None:
        torch.set_num_threads(first_share(common))
        warm_up(prepared)
        serve_partition(prepared, line, common, run_dir, before)

    try:
        return answer_for(line, work)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def serve_partition(prepared: Prepared, line: Line, common: Common, run_dir: Path, shared_before: int = 0) -> Engine:
    """Be the prefill half until the decode half closes the line; returns the engine, all of whose blocks are free."""
    executor = allocate(prepared)
    line.send(Ready(prepared.num_blocks, (), _facts(prepared, shared_before)))
    return prefill_until_closed(
        prepared, line, run_dir, executor, lambda relay: _PrefillParts(prepared, line, common, relay)
    )


class PartitionedSide(DecodeSide):
    """What the run's own engine needs of the other half where both have one pool."""

    def __init__(self, line: Line, prepared: Prepared, common: Common, ready: Ready, shared_before: int = 0) -> None:
        self.ready = ready
        self.prepared = prepared
        self._line = line
        self._common = common
        self._shared_before = shared_before
        self._receiver: Receiver | None = None

    @property
    def kv_capacity_tokens(self) -> int:
        return self.prepared.kv_capacity_tokens

    @property
    def facts(self) -> dict[str, Any]:
        decode = _facts(self.prepared, self._shared_before)
        return {"halves": {"prefill": dict(self.ready.facts), "decode": decode}}

    def recorder(self, run_dir: Path, clock: RunClock) -> HalvesRecorder:
        config = self.prepared.spec.engine
        blocks = (0, self.prepared.num_blocks)
        return HalvesRecorder(run_dir, config.recording, clock, blocks=blocks, threads=config.threads)

    def engine(
        self,
        recorder: HalvesRecorder,
        clock: RunClock,
        executor: Executor | None = None,
        drafter: Speculator | None = None,
        peaks: Mapping[str, float] | None = None,
    ) -> Engine:
        asked = self.prepared.spec.engine.placement
        assert asked is not None
        parts = _DecodeParts(asked, self._line, self._common, recorder, peaks or {})
        engine = build_engine(self.prepared, recorder, clock, executor, drafter, parts=parts)
        assert parts.taker is not None
        parts.taker.queue = engine.scheduler
        self._receiver = parts.taker
        return engine


class _OnePoolParts(Parts):
    """A half of the pool's users."""

    def __init__(self, half: Half, asked: Placement, line: Line, common: Common) -> None:
        self.books = Books(common.books, half)
        self.line = line
        self.cores = Cores(
            self.books,
            common.cores,
            lends=asked.lend,
            place=lambda count: common.place(half, count),
            other_lives=self._other_lives,
        )

    def pool(self, prepared: Prepared, journal: list[BlockEvent] | None, cache: KVCache) -> BlockPool:
        size, block_bytes = prepared.spec.engine.block_size, prepared.layout.block_bytes
        return OnePool(self.books, size, journal=journal, block_bytes=block_bytes)

    def _other_lives(self) -> bool:
        """Raises HalfLost in the decode half, whose run then ends."""
        if not self.line.is_open:
            return False
        try:
            self.line.put_back(self.line.received())
        except HalfLost:
            if self.books.half == "decode":
                raise
            return False
        return True


class _PrefillParts(_OnePoolParts):
    def __init__(self, prepared: Prepared, line: Line, common: Common, relay: Relay) -> None:
        asked = prepared.spec.engine.placement
        assert asked is not None
        super().__init__("prefill", asked, line, common)
        self._relay = relay

    def preemption(self, prepared: Prepared, prefixes: Prefixes, cache: KVCache, clock: RunClock) -> Preemption:
        assert isinstance(prefixes.pool, OnePool)
        return PassOn(prefixes.pool, self.line, self.cores, self._relay)


class _DecodeParts(_OnePoolParts):
    def __init__(
        self, asked: Placement, line: Line, common: Common, recorder: HalvesRecorder, peaks: Mapping[str, float]
    ) -> None:
        super().__init__("decode", asked, line, common)
        self.taker: Taker | None = None
        self._asked = asked
        self._common = common
        self._recorder = recorder
        self._peaks = peaks
        self._clock = recorder.clock

    def prefixes(self, pool: BlockPool, window_blocks: int | None) -> Prefixes:
        assert isinstance(pool, OnePool)
        self.taker = Taker(pool, self.line, recorder=self._recorder, clock=self._clock, cores=self.cores, mover=None)
        return TakenOver(pool, self.taker, window_blocks)

    def preemption(self, prepared: Prepared, prefixes: Prefixes, cache: KVCache, clock: RunClock) -> Preemption:
        assert self.taker is not None
        self.taker.mover = self._mover(prepared)
        return self.taker

    def _mover(self, prepared: Prepared) -> Mover | None:
        """Who moves the share; None where nobody does."""
        asked, cores = self._asked, self._common.cores
        if asked.share == "fixed" or cores < 3:  # each half keeps one
            return None
        if asked.share == "slo":
            return Mover(self.books, cores, by_bounds(asked), asked.interval_s)
        slowdown = Slowdown(
            cost_model(prepared.model, prepared.kv_bytes_per_token),
            self._peaks.get("flops_per_s", USUAL_FLOPS_PER_S) / (prepared.spec.engine.threads or 1),
            self._peaks.get("bytes_per_s", USUAL_BYTES_PER_S),
            prepared.limits.token_budget,
        )
        return Mover(self.books, cores, by_cost(asked, slowdown), asked.interval_s)


USUAL_FLOPS_PER_S, USUAL_BYTES_PER_S = 5e10, 2e10  # where nothing was measured


def _facts(prepared: Prepared, shared_before: int) -> dict[str, Any]:
    """Of the half that this process is: ``shared_before``: anonymous memory that it shared before it was two."""
    memory = anonymous_bytes()
    return {
        "threads": prepared.spec.engine.threads,
        "weight_bytes": prepared.model.weight_bytes,
        "blocks": prepared.num_blocks,
        "shared_bytes": max(0, memory.shared - shared_before),
        "private_bytes": memory.private,
    }
