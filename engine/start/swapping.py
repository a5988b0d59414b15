"""Swapping made ready for a run: host memory for the pool's blocks, and who moves them."""

from __future__ import annotations

import math

from engine.block_table import blocks_for
from engine.config import FarPool
from engine.config import Preemption as Asked
from engine.config.errors import EngineError
from engine.kv.cache import KVCache
from engine.kv.copying import Copier, Link
from engine.kv.free_blocks import FreeBlocks, LargestRun
from engine.kv.host import HostPool
from engine.kv.pool import BlockPool
from engine.scheduling.preemption import Preemption, Recompute
from engine.scheduling.priorities import Priorities, sessions_of
from engine.scheduling.swap import Swap
from engine.start.prepared import Prepared
from engine.start.sizing import host_room
from telemetry.clock import RunClock

PREEMPTIONS: dict[str, type[Preemption]] = {kind.name: kind for kind in (Recompute, Swap)}
"""The registry, in the order the settings list them."""


def make_host(prepared: Prepared, cache: KVCache) -> HostPool | None:
    """The part of host memory that blocks are swapped to; None where nothing is swapped.

    Raises:
        EngineError: the budget does not hold one block, or the host cannot give it.
    """
    asked = prepared.spec.engine.preemption
    if asked is None or not asked.swaps:
        return None
    size = prepared.spec.engine.block_size
    room = host_room(asked.host_mib, cache.stores(), cache.tail_stores(), most_blocks(prepared))
    if room.blocks < 1:
        least = sum(len(s) * s.shape[2] for s in (*cache.stores(), *cache.tail_stores())) / 2**20
        raise EngineError(
            "out-of-memory",
            "preemption.host_mib",
            asked.host_mib,
            f"it does not hold one block of {size} tokens, which takes {least:.3g} MiB with what belongs to it.",
            f"Set it to {least:.3g} or more: a request of n tokens takes n / {size} blocks. Or set preemption.mode to "
            "recompute.",
        )
    return HostPool(room.blocks, size, room.tails or 0, cache.stores(), cache.tail_stores())


def make_preemption(prepared: Prepared, pool: BlockPool, cache: KVCache, clock: RunClock) -> Preemption:
    """What becomes of this run's preempted requests."""
    asked = prepared.spec.engine.preemption
    if asked is None or not asked.swaps:
        return Recompute()
    host = cache.host or make_host(prepared, cache)
    assert host is not None
    stores, tails = cache.stores(), cache.tail_stores()
    pairs = [*zip(stores, host.stores, strict=True), *zip(tails, host.tail_stores, strict=True)]
    return Swap(
        pool,
        host,
        Copier(pairs, asynchronous=asked.asynchronous, link=emulated_link(asked), clock=clock.now_ns),
        stores,
        tails,
        grouped=asked.copies == "group",
        keep=asked.keep_copy,
        window=None if prepared.codec is None else prepared.codec.window,
        clock=clock.now_ns,
        continued={r.spec.after: r.index for r in prepared.requests if r.spec.continues and r.spec.after is not None},
        check=prepared.spec.engine.check_integrity,
    )


def make_priorities(prepared: Prepared) -> Priorities | None:
    """Priorities that change while requests are served; None where they do not."""
    asked, seed = prepared.spec.engine.preemption, prepared.spec.engine.seed
    if asked is None or not asked.redraws:
        return None
    return Priorities(
        markov=asked.priorities == "markov",
        levels=asked.priority_levels,
        every=asked.priority_every,
        seed=seed,
        sessions=sessions_of(prepared.requests),
    )


def make_free(prepared: Prepared) -> FreeBlocks | None:
    """The order in which the pool's blocks are handed out: such that copies can be grouped; None: oldest first."""
    asked = prepared.spec.engine.preemption
    grouped = asked is not None and asked.swaps and asked.copies == "group"
    return LargestRun(prepared.num_blocks) if grouped else None


def emulated_link(asked: Asked) -> Link | None:
    if asked.link_mb_per_s is None:
        return None
    return Link(asked.link_launch_us / 1e6, asked.link_mb_per_s * 1e6)


def emulated_far_link(asked: FarPool) -> Link | None:
    """The link to a far pool; None where it is not emulated."""
    if not asked.has_link:
        return None
    rate = math.inf if asked.link_gb_per_s is None else asked.link_gb_per_s * 1e9
    return Link(asked.link_latency_us / 1e6, rate)


def most_blocks(prepared: Prepared) -> list[int]:
    """Blocks that each request may come to hold; where clients ask as the run goes on, of as many as may wait and
    run."""
    size = prepared.spec.engine.block_size
    if prepared.spec.served:
        return [prepared.num_blocks] * (2 * prepared.spec.engine.max_num_seqs)
    return [blocks_for(r.most_computed_tokens, size) for r in prepared.servable]
