"""A run whose requests come from clients: what the worker puts in place of a planned workload."""

from __future__ import annotations

from pathlib import Path

from engine.arrivals import LiveArrivals
from engine.config.door import Ask
from engine.door import Door, ToldOutputs, ToldRecorder
from engine.loop import Engine
from engine.request import Request
from engine.start.prepared import Prepared
from engine.start.requests import live_request
from telemetry.clock import RunClock
from telemetry.recorder import Level, Recorder


def told_recorder(door: Door | None, run_dir: Path, level: Level, clock: RunClock) -> Recorder:
    """The run's recorder; a door hears of each step, too."""
    return Recorder(run_dir, level, clock) if door is None else ToldRecorder(door, run_dir, level, clock)


def told_outputs(door: Door | None, prepared: Prepared) -> ToldOutputs | None:
    """Outputs that tell the door what was emitted; None without one."""
    if door is None:
        return None
    model, keep_text = prepared.model, prepared.spec.engine.keep_text
    return ToldOutputs(door, model.tokenizer, model.shape.eos_token_ids, prepared.max_model_len, keep_text)


def until_closed(door: Door, prepared: Prepared, engine: Engine, labels: list[str]) -> LiveArrivals:
    """What clients ask until the door is closed, as the engine's arrivals."""
    spec, model = prepared.spec, prepared.model

    def make(ask: Ask) -> Request:
        return live_request(ask, spec, model, prepared.device, prepared.max_model_len, prepared.unfit)

    def drop_cache() -> dict[str, int]:
        pool, tiers = engine.scheduler.pool, engine.scheduler.prefixes.tiers
        dropped = pool.drop_cached()
        if tiers is not None:
            tiers.clear()
        return {"dropped": dropped, "held": pool.num_used}

    door.drop_cache = drop_cache
    door.hello = {
        "run_id": spec.run_id,
        "model": spec.engine.model,
        "vocab": model.shape.vocab,
        "eos_token_ids": list(model.shape.eos_token_ids),
        "max_model_len": prepared.max_model_len,
        "max_num_seqs": spec.engine.max_num_seqs,
        "block_size": spec.engine.block_size,
        "kv_blocks": prepared.num_blocks,
        "device": str(prepared.device),
        "scores_prompts": not engine.executor.kernels,
        "labels": labels,
        "origin_ns": engine.clock.origin_monotonic_ns,
    }
    return LiveArrivals(door, make, engine.clock.origin_monotonic_ns)
