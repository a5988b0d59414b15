"""How far a run is, for ``status.json``: what has ended, and what is in flight. Asked by the status thread, never by
the engine's own."""

from __future__ import annotations

from typing import Any

from engine.loop import Engine
from engine.scheduling.plan import Plan
from engine.start.prepared import Prepared

MOST_LISTED = 512  # requests in flight that are listed one by one, those that have a place first


def progress(engine: Engine, prepared: Prepared) -> dict[str, Any]:
    """What has been done so far."""
    scheduler, totals = engine.scheduler, engine.totals
    asked = engine.arrivals.came if prepared.spec.served else len(prepared.requests)
    return {
        "requests_total": asked,
        "requests_done": totals.requests_finished,
        "requests_ended": totals.requests_ended,
        "iterations": totals.iterations,
        "output_tokens": totals.output_tokens,
        "kv_used_share": scheduler.pool.num_used / scheduler.pool.num_blocks,
        "running": len(scheduler.running),
        "waiting": len(scheduler.waiting),
        "phase": "open to clients" if prepared.spec.served else "serving",
        "phase_share": 0.0 if prepared.spec.served else totals.requests_ended / asked,
    }


def in_flight(engine: Engine) -> dict[str, Any]:
    """What has begun and not ended: the step being computed, and the requests that have arrived
    (``docs/architecture.md``).

    Reads what the engine's thread writes meanwhile: lists are copied whole, and a moment's disagreement between them is
    harmless.
    """
    iterations, step, now = engine.totals.iterations, engine.step_in_flight, engine.clock.now_ns()
    scheduler = engine.scheduler
    running = scheduler.running.copy()
    waiting = scheduler.waiting.copy() + engine.arrivals.due(now)
    about = None
    if step is not None:
        plan = step.plan or Plan()
        slices = plan.slices
        flops, moved = engine.rows.cost.of(plan, len(slices))
        about = {
            "iteration": step.iteration,
            "start_ns": step.start_ns,
            "prefill_tokens": sum(part.tokens for part in slices if part.is_prefill),
            "decode_requests": sum(not part.is_prefill for part in slices),
            "flops": flops,
            "bytes": moved,
        }
    listed = [*running, *waiting][:MOST_LISTED]
    return {
        "at_ns": now,
        "iterations": iterations,
        "running": len(running),
        "waiting": len(waiting),
        "step": about,
        "requests": [[r.index, r.arrival_ns, r.first_token_ns, engine.rows.last_token_ns(r)] for r in listed],
    }
