"""From an iteration to rows. The only place that knows both the engine's objects and the row types."""

from __future__ import annotations

from dataclasses import dataclass

from engine.batch import Batch
from engine.cost import CostModel
from engine.request import Request
from engine.scheduler import Plan, Scheduler
from telemetry.recorder import Recorder
from telemetry.rows import BLOCK_EVENTS, NULL_INT

PREFILL, DECODE = 0, 1  # places in telemetry.rows.SLICE_KINDS
_BLOCK_EVENT = {name: code for code, name in enumerate(BLOCK_EVENTS)}


@dataclass(slots=True)
class StepTimes:
    """Moments of one iteration on the run's clock, in ns, and the device's own time for the forward pass if it has a clock."""

    start: int
    scheduled: int = 0
    prepared: int = 0
    computed: int = 0
    sampled: int = 0
    end: int = 0
    device_ns: int | None = None


def record_step(
    recorder: Recorder,
    iteration: int,
    plan: Plan,
    batch: Batch,
    times: StepTimes,
    scheduler: Scheduler,
    cost: CostModel,
    kv_tokens: int,
) -> None:
    """Write an iteration's rows, and stamp its tokens with the iteration's end."""
    itl_ns = _stamp(plan, batch, times)
    if recorder.iterations:
        _record_iteration(recorder, iteration, plan, batch, times, scheduler, cost, kv_tokens)
    journal = scheduler.pool.journal
    if recorder.detail:
        slices = plan.slices
        recorder.slices(
            iteration,
            request=[s.request.index for s in slices],
            kind=[PREFILL if s.is_prefill else DECODE for s in slices],
            tokens=[s.tokens for s in slices],
            context_len=[s.context_len for s in slices],
            emitted=[s.request.index in itl_ns for s in slices],
            itl_ns=[itl_ns.get(s.request.index, NULL_INT) for s in slices],
        )
        for d in plan.decisions:
            recorder.decision(
                iteration,
                d.action,
                d.reason,
                request=d.request,
                tokens=d.tokens,
                tokens_left=d.tokens_left,
                blocks_needed=d.blocks_needed,
                blocks_free=d.blocks_free,
                time_ns=times.scheduled,
            )
        if journal:
            recorder.blocks(
                iteration,
                block=[e.block for e in journal],
                event=[_BLOCK_EVENT[e.event] for e in journal],
                request=[e.request for e in journal],
                position=[e.position for e in journal],
                ref_count=[e.ref_count for e in journal],
                time_ns=times.end,
            )
    if journal:
        journal.clear()


def record_request(recorder: Recorder, request: Request, end_ns: int) -> None:
    """Write the row of a request that ended."""
    recorder.request(
        request=request.index,
        request_id=request.request_id,
        group=request.spec.group,
        priority=request.priority,
        arrival_ns=request.arrival_ns,
        first_scheduled_ns=request.first_scheduled_ns,
        first_token_ns=request.first_token_ns,
        end_ns=max(end_ns, request.arrival_ns),
        prompt_tokens=request.num_prompt_tokens,
        cached_tokens=request.cached_tokens,
        output_tokens=request.num_output_tokens,
        preemptions=request.preemptions,
        drafted_tokens=0,
        accepted_tokens=0,
        end_reason=request.end_reason,
        error=None,
        text=request.text or None,
        output_token_ids=request.output_token_ids,
    )


def _stamp(plan: Plan, batch: Batch, times: StepTimes) -> dict[int, int]:
    """Set the requests' time stamps; returns each emitting request's inter-token latency, NULL_INT for a first token."""
    for part in plan.slices:
        if part.request.first_scheduled_ns is None:
            part.request.first_scheduled_ns = times.start
    itl_ns = {}
    for request in batch.sampled:
        if request.first_token_ns is None:
            request.first_token_ns = times.end
            itl_ns[request.index] = NULL_INT
        else:
            itl_ns[request.index] = times.end - request.last_token_ns
        request.last_token_ns = times.end
    return itl_ns


def _record_iteration(
    recorder: Recorder,
    iteration: int,
    plan: Plan,
    batch: Batch,
    times: StepTimes,
    scheduler: Scheduler,
    cost: CostModel,
    kv_tokens: int,
) -> None:
    prefills = [s.tokens for s in plan.slices if s.is_prefill]
    num_tokens = plan.num_tokens
    flops, moved = cost.of(plan, len(batch.sampled))
    pool = scheduler.pool
    host_forward = times.computed - times.prepared
    recorder.iteration(
        iteration=iteration,
        start_ns=times.start,
        end_ns=times.end,
        schedule_ns=times.scheduled - times.start,
        prepare_ns=times.prepared - times.scheduled,
        forward_ns=host_forward if times.device_ns is None else times.device_ns,
        sample_ns=times.sampled - times.computed,
        finish_ns=times.end - times.sampled,
        running=len({s.request.index for s in plan.slices} | {r.index for r in scheduler.running}),
        waiting=plan.num_waiting,
        preempted=len(plan.preempted),
        prefill_requests=len(prefills),
        decode_requests=len(plan.slices) - len(prefills),
        prefill_tokens=sum(prefills),
        decode_tokens=num_tokens - sum(prefills),
        draft_tokens=0,
        accepted_tokens=0,
        emitted_tokens=len(batch.sampled),
        prefix_hit_tokens=0,
        context_tokens=batch.context_tokens,
        token_budget=plan.token_budget,
        admission_stop=plan.admission_stop,
        blocks_total=pool.num_blocks,
        blocks_used=pool.num_used,
        blocks_cached=pool.num_cached,
        blocks_shared=pool.num_shared,
        kv_tokens=kv_tokens,
        graph_size=NULL_INT if batch.graph_size is None else batch.graph_size,
        flops=flops,
        bytes=moved,
    )
