"""The overlapped loop: the next step is planned and prepared while the device runs the last one.

    host     | plan 1 | launch 1 | plan 2 | launch 2 | take in 1 | plan 3 | launch 3 | take in 2 |
    device              [======== step 1 ========]  [======== step 2 ========]  [=== step 3 ...

Differs from the plain loop in this only: a step's tokens are not known when the next one is planned. Such a token
counts as known, stands in the next batch as ``-1 - row``, and is filled in on the device. A request that turns out to
have ended with it has computed one row for nothing, which is thrown away; what it was given never changes. Blocks that
are freed meanwhile may be given to others at once: the device works in order.

Guesses go on from the last token, so a step with guesses waits for the one before and is taken in by itself. While who
guesses expects that guessing does not pay, steps are planned ahead as without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from engine.batch import Batch
from engine.loop import DeviceMarks, Engine, StepInFlight
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.speculation.invariants import check_positions, check_running
from engine.step_rows import StepTimes


@dataclass
class Flight:
    """A step that runs on the device, and its tokens on the way to the host."""

    plan: Plan
    batch: Batch
    times: StepTimes
    marks: DeviceMarks
    tokens: torch.Tensor  # [parts] int64, on the device
    preemptions: list[int] = field(default_factory=list)  # of each slice's request when the step was launched
    fetched: torch.Tensor = field(init=False)
    _arrived: torch.cuda.Event | None = None

    def __post_init__(self) -> None:
        """Start the copy to the host, behind the step."""
        self.fetched = self.tokens
        if self.tokens.is_cuda:
            self.fetched = torch.empty(self.tokens.shape, dtype=self.tokens.dtype, pin_memory=True)
            self.fetched.copy_(self.tokens, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def arrive(self) -> list[list[int]]:
        """Wait for the tokens; one for each sampled part."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [[token] for token in self.fetched.tolist()]

    @property
    def needed_first(self) -> bool:
        """The next step's draws depend on this one's tokens on the host (a repetition penalty)."""
        return any(part.request.sampling_state.seen is not None for part in self.batch.sampled)


class OverlappedEngine(Engine):
    """``Engine`` with results one step late; in order where there are guesses to verify."""

    _flight: Flight | None = None  # the last step launched
    _landing: Flight | None = None  # the one being taken in
    _last_end_ns = 0

    def step(self) -> Plan:
        """One iteration: schedule, prepare and launch the next step, then take in the last one."""
        if self._flight is not None and self._flight.needed_first:
            self.settle()
            if not self.scheduler.has_work:
                return Plan()
        if self.scheduler.drafter is not None and not self.scheduler.drafter.rest():
            return self._in_order()
        times = StepTimes(start=self.clock.now_ns())

        plan = self.scheduler.plan()
        times.scheduled = self.clock.now_ns()
        if not plan.slices and self._flight is not None:  # all that goes on depends on the step that is running
            self._flight.plan.decisions += plan.decisions
            self.settle()
            return plan
        if not plan.slices and self.scheduler.all_load:
            return self.nothing_yet(plan)
        self.demand_work(plan)

        batch = self.executor.build(plan)
        if self.check_integrity:
            check_positions(batch)
        times.prepared = self.clock.now_ns()

        marks = DeviceMarks(self.device)
        if self._flight is not None and len(self._flight.tokens):
            self.executor.fill_in(batch, self._flight.tokens)
        tokens = self.executor.sample(batch, self.executor.forward(batch))
        marks.end()
        plan.spared_tokens = self.executor.spared_tokens(batch)
        plan.padded_tokens, plan.padded_keys = self.executor.padding(batch)
        times.computed = self.clock.now_ns()

        previous, self._flight = self._flight, self._depart(Flight(plan, batch, times, marks, tokens))
        if previous is not None:
            self._land(previous)
        self.step_in_flight = StepInFlight(self.totals.iterations, max(times.start, self._last_end_ns), plan)
        return plan

    def _in_order(self) -> Plan:
        """One iteration of the plain loop, once what still runs was taken in."""
        self.settle()
        if not self.scheduler.has_work:
            return Plan()
        self._landing = None
        plan = super().step()
        self._last_end_ns = self.clock.now_ns()
        return plan

    def settle(self) -> None:
        """Take in the step that still runs."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._land(flight)

    def _depart(self, flight: Flight) -> Flight:
        """The step was launched: its keys and values count as computed, its tokens are on their way."""
        flight.preemptions = [part.request.preemptions for part in flight.plan.slices]
        for part in flight.plan.slices:
            part.request.num_computed_tokens += part.tokens
        for row, part in enumerate(flight.batch.sampled):
            part.request.in_flight = row
        return flight

    def _land(self, flight: Flight) -> None:
        """Take in a step's tokens; a request whose next one is on its way already stays in flight."""
        tokens = flight.arrive()
        times = flight.times
        times.sampled = self.clock.now_ns()
        times.device_ns = flight.marks.elapsed_ns()
        times.before_ns = self._last_end_ns
        again = {part.request for part in self._flight.batch.sampled} if self._flight is not None else set[Request]()
        for part in flight.batch.sampled:
            if part.request not in again:
                part.request.in_flight = None
        self._landing = flight
        self.finish(flight.plan, flight.batch, tokens, times)
        self._last_end_ns = times.end

    def take(self, part: Slice, tokens: list[int]) -> None:
        """As in the plain loop, but for requests that ended while the row was computed."""
        if part.request.end_reason is None:
            super().take(part, tokens)

    def observe(self, batch: Batch) -> None:
        """Only of the last step that was launched: a later one has taken the place of what this one left."""
        drafter = self.scheduler.drafter
        if self._flight is not None:
            if drafter is not None:
                drafter.miss(batch.sampled)
            return
        super().observe(batch)
        for part in batch.sampled:  # computed for nothing: nobody else lets go of what was just kept
            if drafter is not None and part.request.end_reason is not None:
                drafter.forget(part.request)

    def commit(self, plan: Plan) -> None:
        """Publish what the step computed; a request that lost its blocks since has nothing there."""
        if self._landing is None:
            super().commit(plan)
            return
        for part, preemptions in zip(plan.slices, self._landing.preemptions, strict=True):
            request = part.request
            if request.block_table and request.preemptions == preemptions:
                self.scheduler.prefixes.computed(request, part.context_len, part.context_len + part.tokens)

    def check(self, batch: Batch) -> None:
        if self._landing is None:
            super().check(batch)
            return
        self.scheduler.check_integrity()
        check_running(self.scheduler.running, self.scheduler.pool)
