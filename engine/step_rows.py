"""From an iteration to rows. The only place that knows both the engine's objects and the row types."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from engine.batch import Batch
from engine.cost import CostModel
from engine.kv.lending import LendingPool
from engine.kv.occupancy import occupancy
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.scheduling.scheduler import Scheduler
from telemetry.recorder import Recorder
from telemetry.rows import BLOCK_EVENTS, NULL_INT

RESIDENT_EVERY_NS = 250_000_000
PREFILL, DECODE, VERIFY = 0, 1, 2  # places in telemetry.rows.SLICE_KINDS
_BLOCK_EVENT = {name: code for code, name in enumerate(BLOCK_EVENTS)}


@dataclass(slots=True)
class StepTimes:
    """Moments of one iteration on the run's clock, in ns, and the device's own time for the forward pass if it has a
    clock."""

    start: int
    scheduled: int = 0
    prepared: int = 0
    computed: int = 0
    sampled: int = 0
    end: int = 0
    device_ns: int | None = None
    before_ns: int = 0  # when the step before had ended, where this one was begun behind it

    @property
    def begin(self) -> int:
        """When the step took up; what was done before the last one's end was hidden behind it."""
        return max(self.start, self.before_ns)

    @property
    def forward_ns(self) -> int:
        """The forward pass: by the device's clock if it has one."""
        return self.computed - self.prepared if self.device_ns is None else self.device_ns

    @property
    def sample_ns(self) -> int:
        """From logits to tokens on the host. With a device clock: what the wait for the tokens took beyond the forward
        pass."""
        if self.device_ns is None:
            return self.sampled - self.computed
        return max(0, self.sampled - max(self.prepared, self.begin) - self.device_ns)


class StepRecorder:
    """Writes an iteration's rows and stamps its tokens with the iteration's end."""

    def __init__(self, recorder: Recorder, scheduler: Scheduler, cost: CostModel) -> None:
        self.recorder = recorder
        self.scheduler = scheduler
        self.cost = cost
        self._memory = (
            -RESIDENT_EVERY_NS,
            0,
            0,
            0,
        )  # when resident memory was last read; mapped, given back, ns so far
        self._last_token_ns = np.zeros(1024, np.int64)  # by number of the request; 0 before its first token

    def step(self, iteration: int, plan: Plan, batch: Batch, times: StepTimes, running: int) -> None:
        """Write what one iteration was.

        Args:
            running: requests that held a place in it.
        """
        newcomers = [request for request in plan.admitted if request.first_scheduled_ns is None]
        for request in newcomers:
            request.first_scheduled_ns = times.start
        looked_up = sum([r.num_prompt_tokens for r in newcomers]) if self.scheduler.prefixes.looks_up else 0
        emitting = [part for part in batch.sampled if part.emitted]
        itl_ns, prompt_tokens = self.stamp([part.request for part in emitting], times.end)
        recorder, journal = self.recorder, self.scheduler.pool.journal
        prefills = [s.tokens for s in plan.slices if s.is_prefill]
        self.moves(iteration)
        if recorder.iterations:
            self._iteration(iteration, plan, batch, times, prefills, running, (prompt_tokens, looked_up))
            if self.scheduler.pool.watched:
                self._layout(iteration, times.end)
            self._far(iteration, times.end)
        if recorder.detail:
            self._slices(iteration, plan, emitting, itl_ns, pure_decode=not prefills)
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
                    value=d.value,
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
                    block_hash=[e.hash for e in journal],
                    time_ns=times.end,
                )
        if journal:
            journal.clear()

    def last_token_ns(self, request: Request) -> int | None:
        """When the request was last given tokens; None before its first."""
        last_ns = self._last_token_ns[request.index] if request.index < len(self._last_token_ns) else 0
        return int(last_ns) or None

    def moves(self, iteration: int) -> None:
        """Write the swaps that have landed since the last call, and what was done with blocks of tiers and with
        pins."""
        scheduler = self.scheduler
        swaps = scheduler.preemption.take_moves()
        tiers = [] if scheduler.prefixes.tiers is None else scheduler.prefixes.tiers.take_moves()
        pins = [] if scheduler.time_to_live is None else scheduler.time_to_live.take_events()
        lendings = scheduler.pool.store.take_lendings() if isinstance(scheduler.pool, LendingPool) else []
        if self.recorder.iterations:
            for pin in pins:
                self.recorder.pin(iteration=iteration, **asdict(pin))
            for swap in swaps:
                self.recorder.swap(iteration=iteration, **asdict(swap))
            for move in tiers:
                self.recorder.tier(iteration=iteration, **asdict(move))
            for lending in lendings:
                self.recorder.lending(iteration=iteration, **asdict(lending))

    def _far(self, iteration: int, now_ns: int) -> None:
        """Write where keys and values lay in a step with a far pool, and what its part of attention took."""
        pool = self.scheduler.pool
        if not isinstance(pool, LendingPool):
            return
        far = pool.far_used
        work = asdict(pool.store.take_work())
        self.recorder.far(iteration=iteration, time_ns=now_ns, near_blocks=pool.num_used - far, far_blocks=far, **work)

    def _layout(self, iteration: int, now_ns: int) -> None:
        """Write what the pool's memory is used for. Reading what is resident takes milliseconds, so not at every
        step."""
        scheduler = self.scheduler
        pool = scheduler.pool
        leaving = [tokens for _, _, tokens in scheduler.preemption.in_transit()]
        holders = [request.num_computed_tokens for request in scheduler.running] + leaving
        parts = occupancy(pool, scheduler.kv_tokens, holders)
        read_ns, mapped, released, spent_ns = self._memory
        resident = None
        if now_ns - read_ns >= RESIDENT_EVERY_NS:
            resident, read_ns = pool.resident_bytes(), now_ns
        self._memory = read_ns, pool.mapped_bytes, pool.released_bytes, pool.mapping_ns
        self.recorder.layout(
            iteration=iteration,
            time_ns=now_ns,
            used_bytes=parts.used,
            internal_bytes=parts.internal,
            reserved_bytes=parts.reserved,
            kept_bytes=parts.kept,
            free_bytes=parts.free,
            resident_bytes=NULL_INT if resident is None else resident,
            mapped_bytes=pool.mapped_bytes - mapped,
            released_bytes=pool.released_bytes - released,
            mapping_ns=pool.mapping_ns - spent_ns,
        )

    def stamp(self, sampled: list[Request], now_ns: int) -> tuple[np.ndarray, int]:
        """Set the requests' first-token times; returns inter-token latencies, NULL_INT for a first token, and the
        length of the prompts that have their first token now.
        """
        numbers = np.array([r.index for r in sampled], np.int64)
        if len(numbers) and (most := int(numbers.max())) >= len(self._last_token_ns):
            self._last_token_ns = np.pad(self._last_token_ns, (0, most + 1))
        previous = self._last_token_ns[numbers]
        self._last_token_ns[numbers] = now_ns
        prompt_tokens = 0
        for row in np.flatnonzero(previous == 0):
            if sampled[row].first_token_ns is None:
                sampled[row].first_token_ns = now_ns
                prompt_tokens += sampled[row].num_prompt_tokens
        return np.where(previous > 0, now_ns - previous, NULL_INT), prompt_tokens

    def _slices(
        self, iteration: int, plan: Plan, emitting: list[Slice], itl_ns: np.ndarray, *, pure_decode: bool
    ) -> None:
        slices = plan.slices
        if pure_decode and plan.num_tokens == len(emitting):  # the common case at full load, with the cheapest columns
            self.recorder.slices(
                iteration,
                request=[s.request.index for s in emitting],
                kind=DECODE,
                tokens=1,
                context_len=[s.context_len for s in emitting],
                emitted=1,
                itl_ns=itl_ns,
            )
            return
        gaps = dict(zip([s.request.index for s in emitting], itl_ns.tolist(), strict=True))
        self.recorder.slices(
            iteration,
            request=[s.request.index for s in slices],
            kind=[PREFILL if s.is_prefill else VERIFY if s.drafted else DECODE for s in slices],
            tokens=[s.tokens for s in slices],
            context_len=[s.context_len for s in slices],
            drafted=[s.drafted for s in slices],
            accepted=[s.accepted for s in slices],
            emitted=[s.emitted for s in slices],
            itl_ns=[gaps.get(s.request.index, NULL_INT) for s in slices],
        )

    def _iteration(
        self,
        iteration: int,
        plan: Plan,
        batch: Batch,
        times: StepTimes,
        prefills: list[int],
        running: int,
        prompts: tuple[int, int],
    ) -> None:
        """``prompts``: tokens of those that have their first token now, and of those that were looked up."""
        pool, prefill_tokens = self.scheduler.pool, sum(prefills)
        drafted = sum(s.drafted for s in plan.slices)
        flops, moved = self.cost.of(plan, len(batch.sample_rows))
        self.recorder.iteration(
            iteration=iteration,
            start_ns=times.begin,
            end_ns=times.end,
            schedule_ns=times.scheduled - times.start,
            draft_ns=plan.draft_ns,
            prepare_ns=times.prepared - times.scheduled,
            forward_ns=times.forward_ns,
            sample_ns=times.sample_ns,
            finish_ns=times.end - times.sampled,
            running=running,
            waiting=plan.num_waiting,
            preempted=len(plan.preempted),
            prefill_requests=len(prefills),
            decode_requests=len(plan.slices) - len(prefills),
            prefill_tokens=prefill_tokens,
            decode_tokens=plan.num_tokens - prefill_tokens - drafted,
            draft_tokens=drafted,
            accepted_tokens=sum(s.accepted for s in plan.slices),
            emitted_tokens=sum(s.emitted for s in plan.slices),
            prompt_tokens=prompts[0],
            prefix_query_tokens=prompts[1],
            prefix_hit_tokens=plan.prefix_hit_tokens,
            preempted_hit_tokens=plan.preempted_hit_tokens,
            padded_tokens=plan.padded_tokens,
            padded_keys=plan.padded_keys,
            context_tokens=batch.context_tokens,
            token_budget=plan.token_budget,
            admission_stop=plan.admission_stop,
            blocks_total=pool.num_blocks,
            blocks_used=pool.num_used,
            blocks_cached=pool.num_cached,
            blocks_shared=pool.num_shared,
            kv_tokens=self.scheduler.kv_tokens,
            blocks_spared=pool.num_spared,
            graph_size=NULL_INT if batch.graph_size is None else batch.graph_size,
            flops=flops,
            bytes=moved - self.cost.spared(plan.spared_tokens),
            kv_bytes_spared=self.cost.spared(plan.spared_tokens),
        )


def record_request(recorder: Recorder, request: Request, end_ns: int) -> None:
    """Write the row of a request that ended."""
    recorder.request(
        request=request.index,
        request_id=request.request_id,
        group=request.spec.group,
        priority=request.spec.priority,
        arrival_ns=request.arrival_ns,
        first_scheduled_ns=request.first_scheduled_ns,
        first_token_ns=request.first_token_ns,
        end_ns=max(end_ns, request.arrival_ns),
        prompt_tokens=request.num_prompt_tokens,
        cached_tokens=request.cached_tokens,
        output_tokens=request.num_output_tokens,
        preemptions=request.preemptions,
        drafted_tokens=request.drafted_tokens,
        accepted_tokens=request.accepted_tokens,
        end_reason=request.end_reason,
        error=None if request.refusal is None else str(request.refusal),
        text=(request.text or None) if request.is_kept else None,
        output_token_ids=request.output_token_ids if request.is_kept else None,
        program=request.program,
        output_logprobs=_kept_logprobs(request),
    )


def _kept_logprobs(request: Request) -> list[float] | None:
    """Of the tokens that were given out: of a verified draft's tokens those behind the last one are dropped."""
    scores = request.scores
    return (
        scores.kept[: request.num_output_tokens] if scores is not None and scores.is_kept and request.is_kept else None
    )
