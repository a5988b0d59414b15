"""Pins of ended turns made ready for a run."""

from __future__ import annotations

from engine.config.errors import EngineError
from engine.cost import cost_model
from engine.kv.compute_rate import ComputeRate
from engine.kv.pool import BlockPool
from engine.scheduling.time_to_live import Pins
from engine.scheduling.ttl import TTLS
from engine.start.prepared import Prepared
from telemetry.clock import RunClock


def make_time_to_live(prepared: Prepared, pool: BlockPool, clock: RunClock) -> Pins | None:
    """What becomes of the blocks of this run's ended turns; None where they are kept as long as there is room.

    Raises:
        EngineError: the run's requests come from clients.
    """
    asked = prepared.spec.engine.time_to_live
    if asked is None:
        return None
    if prepared.spec.served:
        raise EngineError(
            "unsupported",
            "time_to_live",
            asked.mode,
            "clients' requests do not say which program they are a turn of, so nothing could be pinned.",
            "Set time_to_live off.",
        )
    return Pins(
        pool,
        TTLS[asked.mode](asked, ComputeRate(cost_model(prepared.model).prefill_flops)),
        clock.now_ns,
        continued={r.spec.after for r in prepared.servable if r.spec.continues and r.spec.after is not None},
        by_program=asked.program_fcfs,
    )
