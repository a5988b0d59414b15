"""A run in two halves inside one process: the prefill half in a thread, and between both what is between processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.config import RunSpec
from engine.halves.line import Line, line_pair
from engine.halves.one_pool import Half
from engine.halves.shared import nameless_file
from engine.loop import Engine
from engine.start.halves import DecodeSide, half_of, ready_of, serve_prefills
from engine.start.partition import PartitionedSide, in_common, serve_partition
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.sizing import Room
from telemetry.clock import RunClock


def serve_apart(
    spec: RunSpec,
    run_dir: Path,
    blocks: Callable[[Half, Prepared], int] = lambda half, prepared: prepared.num_blocks,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Prepared, Engine, Engine]:
    """Serve a spec; ``blocks``: each half's pool. Returns what was prepared for the decode half, its engine and the
    prefill half's, with the books of both balanced and nothing held."""
    mine, its = line_pair()
    file = nameless_file()
    here, there = Line(mine, "prefill"), Line(its, "decode")
    ends: list[Engine | BaseException] = []
    asked = spec.engine.placement
    assert asked is not None

    def sized(half: Half) -> Prepared:
        prepared = prepare(half_of(spec, half))
        room = Room(blocks(half, prepared), None)
        return replace(prepared, pool=replace(prepared.pool, taken=room))

    prepared = sized("decode")
    common = in_common(spec, prepared, lambda half, count: None) if asked.is_partitioned else None

    def prefill() -> None:
        try:
            own = sized("prefill")
            if common is None:
                ends.append(serve_prefills(own, there, file, run_dir))
            else:
                ends.append(serve_partition(replace(own, cache=common.cache), there, common, run_dir))
        except BaseException as error:
            ends.append(error)
            there.close()

    thread = threading.Thread(target=prefill, daemon=True)
    thread.start()
    try:
        if common is None:
            side = DecodeSide(here, file, prepared)
        else:
            side = PartitionedSide(here, replace(prepared, cache=common.cache), common, ready_of(here))
        recorder = side.recorder(run_dir, clock := RunClock())
        with recorder:
            decode = side.engine(recorder, clock)
            decode.run(side.arrivals(decode, recorder), stop)
    finally:
        here.close()
        thread.join(timeout=30)
        os.close(file)
        if common is not None:
            common.books.close()
    prefill_engine = ends[0]
    if isinstance(prefill_engine, BaseException):
        raise prefill_engine
    for engine in (decode, prefill_engine):
        engine.scheduler.check_integrity()
        assert engine.scheduler.pool.num_used == 0, "blocks left behind"
        assert not engine.scheduler.has_work
    assert all(r.end_reason is not None for r in side.prepared.requests), "a request was lost"
    return side.prepared, decode, prefill_engine
