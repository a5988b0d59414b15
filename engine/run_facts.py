"""What a run's row and its ``status.json`` say of it: what served it, and how it went."""

from __future__ import annotations

from typing import Any

from engine.kv.quantized import tail_tokens
from engine.loop import Engine
from engine.start.prepared import Prepared
from engine.start.sizing import spare_tokens
from engine.stopping import output_digest
from telemetry.clock import RunClock

SHOWN_REFUSALS = 10  # in a run's summary


def describe_model(prepared: Prepared, graph_bytes: int) -> dict[str, Any]:
    """The model, its cache and its limits as they were served."""
    model, shape, config = prepared.model, prepared.model.shape, prepared.spec.engine
    limits = prepared.limits
    return {
        "name": config.model,
        "architecture": shape.architecture,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab": shape.vocab,
        "parameters": shape.parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(prepared.device),
        "weight_bytes": model.weight_bytes,
        "kv_bytes_per_token": prepared.kv_bytes_per_token,
        **_describe_codec(prepared),
        "kv_capacity_tokens": prepared.kv_capacity_tokens,
        "kv_could_hold_tokens": prepared.kv_could_hold_tokens,
        "kv_pool": prepared.pool.why,
        "mean_request_tokens": mean_request_tokens(prepared),
        "max_model_len": prepared.max_model_len,
        "attention_backend": prepared.backend,
        "attention_backend_why": prepared.backend_why,
        "graph_bytes": graph_bytes,
        "policy": config.resolved_policy,
        "token_budget": limits.token_budget,
    }


def _describe_codec(prepared: Prepared) -> dict[str, Any]:
    """How many bits a number takes in the KV cache, and what the codec makes of the pool's bytes."""
    codec, shape, size = prepared.codec, prepared.model.shape, prepared.spec.engine.block_size
    if codec is None:
        return {"kv_bits": 8.0 * prepared.model.dtype.itemsize}
    return {
        "kv_codec": codec.name,
        "kv_bits": codec.bits(shape.head_dim, size),
        "kv_window": codec.window,
        "kv_tails": prepared.tails,
        "kv_could_hold_tails": prepared.pool.most.tails,
        "kv_tail_tokens": tail_tokens(codec, spare_tokens(prepared.spec.engine)),
        "kv_full_bytes_per_token": shape.kv_bytes_per_token(prepared.model.dtype.itemsize),
    }


def mean_request_tokens(prepared: Prepared) -> float:
    """Prompt and output of the workload's mean request, as asked; one that ends early takes less."""
    most = prepared.max_model_len
    asked = [min(r.most_prompt_tokens + r.max_tokens, most) for r in prepared.servable]
    return sum(asked) / max(1, len(asked))


def summarise(engine: Engine, prepared: Prepared, clock: RunClock) -> dict[str, Any]:
    """The ``summary`` of ``status.json``."""
    totals = engine.totals
    accounted = totals.requests_finished + totals.requests_cancelled
    total = engine.arrivals.came if prepared.spec.served else len(prepared.requests)
    return {
        "requests": {
            "total": total,
            "finished": totals.requests_finished,
            "cancelled": totals.requests_cancelled,
            "failed": total - accounted,
        },
        "iterations": totals.iterations,
        "output_tokens": totals.output_tokens,
        "prompt_tokens": totals.prompt_tokens,
        "duration_s": clock.now_ns() / 1e9,
        "preemptions": totals.preemptions,
        "prefix_hit_tokens": totals.prefix_hit_tokens,
        "preempted_hit_tokens": totals.preempted_hit_tokens,
        "draft_tokens": totals.draft_tokens,
        "accepted_tokens": totals.accepted_tokens,
        "speculation": engine.scheduler.drafter.describe() if engine.scheduler.drafter is not None else None,
        **engine.scheduler.preemption.describe(),
        **({} if engine.scheduler.prefixes.tiers is None else engine.scheduler.prefixes.tiers.describe()),
        **({} if engine.scheduler.time_to_live is None else engine.scheduler.time_to_live.describe()),
        **({} if engine.executor.cache.far is None else engine.executor.cache.far.describe()),
        "kv_capacity_tokens": prepared.kv_capacity_tokens,
        "peak_kv_tokens": totals.peak_kv_tokens,
        "output_digest": output_digest(prepared.requests) if prepared.requests else None,
        "workload_hash": prepared.spec.workload_hash,
        "refused": _refused(prepared),
    }


def _refused(prepared: Prepared) -> list[dict[str, str]]:
    """Requests that could not be served and why, the first of them; their rows say it of all."""
    refused = [r for r in prepared.requests if r.refusal is not None]
    return [{"request_id": r.request_id, "error": str(r.refusal)} for r in refused[:SHOWN_REFUSALS]]
