"""The engine loop: one iteration as five visible steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from engine.arrivals import Arrivals
from engine.batch import Batch
from engine.config.errors import IntegrityError
from engine.cost import CostModel
from engine.executor import Executor
from engine.finite import BROKEN, not_finite
from engine.request import NO_DRAFT, Request
from engine.scheduling.plan import Plan, Slice
from engine.scheduling.scheduler import Scheduler
from engine.speculation.invariants import check_step
from engine.step_rows import StepRecorder, StepTimes, record_request
from engine.stopping import Outputs
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.rows import COMPLETED

IDLE_SLEEP_S = 0.02  # longest nap between looks at the stop signal


@dataclass
class Totals:
    """What the engine counts itself, for progress and the run's summary."""

    requests_ended: int = 0  # finished or not
    requests_finished: int = 0
    requests_cancelled: int = 0
    requests_failed: int = 0
    iterations: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    preemptions: int = 0
    prefix_hit_tokens: int = 0
    preempted_hit_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    peak_kv_tokens: int = 0


class StepInFlight(NamedTuple):
    """A step that has begun and not ended."""

    iteration: int
    start_ns: int
    plan: Plan | None = None  # while it is being made


class Engine:
    """Serves requests on one device, one iteration at a time.

    Single-threaded. ``run`` ends when every request has ended, or after the iteration in which ``stop()`` turned true.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        scheduler: Scheduler,
        outputs: Outputs,
        cost: CostModel,
        recorder: Recorder,
        clock: RunClock,
        device: torch.device,
        check_integrity: bool = False,
    ) -> None:
        self.executor = executor
        self.scheduler = scheduler
        self.outputs = outputs
        self.recorder = recorder
        self.rows = StepRecorder(recorder, scheduler, cost)
        self.clock = clock
        self.device = device
        self.check_integrity = check_integrity
        self.totals = Totals()
        self.arrivals = Arrivals(())
        self.step_in_flight: StepInFlight | None = None  # another thread may read it

    @torch.inference_mode()
    def run(self, requests: Iterable[Request] | Arrivals, stop: Callable[[], bool] = lambda: False) -> None:
        """Serve the requests as they arrive on the run's clock; ``Arrivals`` of a kind of their own as they say."""
        self.arrivals = requests if isinstance(requests, Arrivals) else Arrivals(requests)
        try:
            self._serve(stop)
        finally:
            if self.scheduler.prefixes.tiers is not None:  # however it ends, no file stays
                self.scheduler.prefixes.tiers.close()
            if self.scheduler.time_to_live is not None:  # and no pin
                self.scheduler.time_to_live.close()

    def _serve(self, stop: Callable[[], bool]) -> None:
        """Iterate until nothing is left to do, or ``stop`` says so."""
        while not stop():
            self.admit_arrivals()
            if self.scheduler.all_load:
                self.settle()
                self.scheduler.loads.nap(IDLE_SLEEP_S)
                self.scheduler.loads.settle()
            elif self.scheduler.has_work:
                self.step()
            elif self.arrivals.outstanding:
                self._nap()
            else:
                break
        self.settle()
        self.cancel_everything()
        self.scheduler.close()
        self.rows.moves(max(0, self.totals.iterations - 1))

    def settle(self) -> None:
        """Take in what still runs on the device; nothing here, where no step outlives its iteration."""

    def step(self) -> Plan:
        """One iteration: schedule, prepare, forward, sample, finish."""
        times = StepTimes(start=self.clock.now_ns())
        self.step_in_flight = StepInFlight(self.totals.iterations, times.start)

        plan = self.scheduler.plan()
        if not plan.slices and self.scheduler.all_load:
            return self.nothing_yet(plan)
        self.demand_work(plan)
        times.scheduled = self.clock.now_ns()
        self.step_in_flight = StepInFlight(self.totals.iterations, times.start, plan)

        batch = self.executor.build(plan)
        times.prepared = self.clock.now_ns()

        marks = DeviceMarks(self.device)
        logits = self.executor.forward(batch)
        marks.end()
        plan.spared_tokens = self.executor.spared_tokens(batch)
        plan.padded_tokens, plan.padded_keys = self.executor.padding(batch)
        times.computed = self.clock.now_ns()

        tokens = self.executor.tokens(batch, logits)
        times.sampled = self.clock.now_ns()
        times.device_ns = marks.elapsed_ns()

        self.finish(plan, batch, tokens, times)
        return plan

    def nothing_yet(self, plan: Plan) -> Plan:
        """Everybody waits for a load from a tier: no step is computed."""
        self.step_in_flight = None
        return plan

    def demand_work(self, plan: Plan) -> None:
        """Raises ``IntegrityError`` where nothing can be computed for anybody: the run would go on for ever."""
        if not plan.slices:
            there = f"{len(self.scheduler.running)} requests run and {len(self.scheduler.waiting)} wait"
            raise IntegrityError(f"step {self.totals.iterations} has nothing to compute, while {there}")

    def finish(self, plan: Plan, batch: Batch, tokens: list[list[int]], times: StepTimes) -> None:
        """Take in the sampled tokens, end what has ended, balance the books, write the rows."""
        scheduler, totals = self.scheduler, self.totals
        self._check_numbers(batch, tokens)
        for part, emitted in zip(batch.sampled, tokens, strict=True):
            self.take(part, emitted)
        self.observe(batch)
        self.commit(plan)
        running = len(scheduler.running)
        totals.peak_kv_tokens = max(totals.peak_kv_tokens, scheduler.kv_tokens)
        ended = [part.request for part in batch.sampled if part.emitted and part.request.end_reason is not None]
        for request in ended:
            scheduler.remove(request)
        if self.check_integrity:
            self.check(batch)
        times.end = self.clock.now_ns()

        if scheduler.drafter is not None:
            scheduler.drafter.learn(plan, times.end - times.begin)
        if scheduler.rates and any(part.is_prefill for part in plan.slices):
            flops, _ = self.rows.cost.of(plan, len(batch.sample_rows))
            for rate in scheduler.rates:
                rate.computed(flops, (times.end - max(times.begin, times.scheduled)) / 1e9)
        totals.output_tokens += sum(part.emitted for part in batch.sampled)
        totals.draft_tokens += sum(part.drafted for part in batch.sampled)
        totals.accepted_tokens += sum(part.accepted for part in batch.sampled)
        totals.preemptions += len(plan.preempted)
        totals.prefix_hit_tokens += plan.prefix_hit_tokens
        totals.preempted_hit_tokens += plan.preempted_hit_tokens
        self.rows.step(totals.iterations, plan, batch, times, running)
        for request in ended:
            self.end(request, times.end)
        totals.iterations += 1
        self.step_in_flight = None

    def _check_numbers(self, batch: Batch, tokens: list[list[int]]) -> None:
        """End the run where a token could not be chosen because its logits are no numbers.

        Raises:
            EngineError: naming the step and the requests; their rows say it too.
        """
        parts = zip(batch.sampled, tokens, strict=True)
        broken = [p.request for p, emitted in parts if emitted[-1] == BROKEN and p.request.end_reason is None]
        if not broken:
            return
        names = ", ".join(repr(r.request_id) for r in broken[:8]) + (", ..." if len(broken) > 8 else "")
        what = f"In step {self.totals.iterations} the logits of {len(broken)} requests ({names}) are"
        if len(broken) == 1:
            what = f"In step {self.totals.iterations} the logits of request {names} are"
        failure = not_finite(what, self.executor.dtype)
        for request in broken:
            request.refusal, request.end_reason = failure, "failed"
            self.end(request, self.clock.now_ns())
        raise failure

    def observe(self, batch: Batch) -> None:
        """Show who guesses what the pass left behind."""
        if self.scheduler.drafter is not None:
            self.scheduler.drafter.observe(batch.sampled, self.executor.left)

    def commit(self, plan: Plan) -> None:
        """The step's keys and values are in the pool."""
        self.scheduler.commit(plan)

    def check(self, batch: Batch) -> None:
        """Debug mode: the books balance, and the invariants hold."""
        self.scheduler.check_integrity()
        check_step(batch, self.scheduler.running, self.scheduler.pool, self.executor.attention)

    def take(self, part: Slice, tokens: list[int]) -> None:
        """Give a request what the target made of its draft: the accepted guesses and one token more, up to its end."""
        request = part.request
        request.draft = NO_DRAFT
        part.emitted = self.outputs.append(request, tokens)
        part.accepted = min(len(tokens) - 1, part.emitted)
        request.drafted_tokens += part.drafted
        request.accepted_tokens += part.accepted

    def admit_arrivals(self) -> None:
        """Move requests that have arrived to the queue, turn away those that were refused, and end those whose users
        gave up."""
        now = self.clock.now_ns()
        for request in self.arrivals.pop_due(now):
            if request.refusal is None:
                self.scheduler.add(request)
            else:
                request.end_reason = "failed"
                self.end(request, now)
        for request in self.arrivals.pop_given_up(now):
            self.cancel(request)

    def cancel(self, request: Request) -> None:
        """End a request that has arrived, keeping what it received."""
        self.scheduler.remove(request)
        request.end_reason = "cancelled"
        self.end(request, self.clock.now_ns())

    def cancel_everything(self) -> None:
        """End all requests, also those that never arrived."""
        for request in [*self.scheduler.running, *self.scheduler.waiting]:
            self.cancel(request)
        now = self.clock.now_ns()
        for request in self.arrivals.never_came():
            request.arrival_ns = min(request.arrival_ns, now)
            request.end_reason = "cancelled"
            self.end(request, now)

    def end(self, request: Request, now_ns: int) -> None:
        """A request is over: count it, tell whoever waits for it, write its row."""
        totals = self.totals
        totals.requests_ended += 1
        totals.requests_cancelled += request.end_reason == "cancelled"
        totals.requests_failed += request.end_reason == "failed"
        totals.requests_finished += request.end_reason in COMPLETED
        totals.prompt_tokens += request.num_prompt_tokens if request.end_reason != "failed" else 0
        self.outputs.close(request)
        self.arrivals.ended(request, now_ns)
        record_request(self.recorder, request, now_ns)

    def _nap(self) -> None:
        """Nothing to do until the next arrival; sleep in short naps so that a stop is heard."""
        due = self.arrivals.next_ns
        wait = IDLE_SLEEP_S if due is None else (due - self.clock.now_ns()) / 1e9
        if wait > 0:
            self.arrivals.wait(min(wait, IDLE_SLEEP_S))


class DeviceMarks:
    """Time the device spends from here to ``end``, by its own events; on a CPU the caller's clock already tells."""

    def __init__(self, device: torch.device) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else None
        if self._events:
            self._events[0].record()

    def end(self) -> None:
        if self._events:
            self._events[1].record()

    def elapsed_ns(self) -> int | None:
        """Call once the step's tokens were fetched: both events lie before that, so nothing waits here. A step that
        draws no token is waited for: its time cannot be told before it has ended, nor its batch's memory be written
        again."""
        if not self._events:
            return None
        self._events[1].synchronize()
        return round(self._events[0].elapsed_time(self._events[1]) * 1e6)
