"""SmartSpec's control in virtual time: what an iteration takes is made up, noisy and known; which guesses are right is drawn.

As many requests run as there are places. Held to what the control is for: close to the best fixed length, and hardly ever below plain decoding.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import RequestSpec, Sampling
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.speculation.control import FixedLength, LengthControl
from engine.speculation.smart import PROBE_SHARE, REST, SmartLength, measured
from engine.speculation.step_time import Measured

NOISE = 0.08  # of an iteration's time, one standard deviation
INTERRUPTED = 0.02  # of the iterations take up to 2.5 times as long
CONTEXT = 200
STEPS = 300
SEEDS = 4


def step_ns(rows: int, sequences: int) -> float:
    """A device that reads its weights in 25 ms and computes a row in 1.4 ms: memory-bound up to some ten rows."""
    return 1e6 * (25 + max(5.0, 1.4 * rows) + 0.3 * sequences)


class Machine:
    """Decodes for as many requests as there are places, with a clock of its own."""

    def __init__(self, places: int, acceptance: Callable[[int, int], float], guess_ms: float, seed: int) -> None:
        """``acceptance``: of a guess, by the request's number and how many tokens it has; ``guess_ms``: per guessed token, all requests together."""
        self.acceptance, self.guess_ns = acceptance, 1e6 * guess_ms
        self.chance = random.Random(seed)
        self.requests = [made_up(number) for number in range(places)]
        self.lengths = [0] * places

    def noisy(self, ns: float) -> int:
        slow = self.chance.uniform(1.3, 2.5) if self.chance.random() < INTERRUPTED else 1.0
        return int(ns * slow * math.exp(self.chance.gauss(0, NOISE)))

    def iterate(self, lengths: Sequence[int], plan: Plan) -> int:
        """Serve a planned iteration with guesses of these lengths: its duration in ns; the plan says what was accepted."""
        for part, length in zip(plan.slices, lengths, strict=True):
            part.drafted, part.tokens = length, 1 + length
            at = self.lengths[part.request.index]
            right = self.acceptance(part.request.index, at)
            while part.accepted < length and self.chance.random() < right:
                part.accepted += 1
            self.lengths[part.request.index] = at + 1 + part.accepted
        plan.draft_ns = self.noisy(self.guess_ns * max(lengths)) if any(lengths) else 0
        rows = sum(part.tokens for part in plan.slices)
        return self.noisy(step_ns(rows, len(plan.slices))) + plan.draft_ns

    def plan(self) -> Plan:
        return Plan([Slice(request, 1, CONTEXT, False) for request in self.requests])

    def serve(self, control: LengthControl) -> float:
        """Tokens per second over ``STEPS`` iterations."""
        took = 0
        for _ in range(STEPS):
            plan = self.plan()
            builder: Any = SimpleNamespace(plan=plan)
            duration = self.iterate(control.choose(builder, plan.slices, [control.most] * len(plan.slices)), plan)
            control.learn(plan, duration)
            took += duration
        return sum(self.lengths) / took * 1e9

    def tried_out(self, lengths: Sequence[int]) -> list[Measured]:
        """What ``engine.start.trial`` would have measured here."""
        measurements = []
        for length in lengths:
            plan = self.plan()
            measurements.append(measured(plan, self.iterate([length] * len(plan.slices), plan)))
        self.lengths = [0] * len(self.lengths)
        return measurements


def made_up(number: int) -> Request:
    return Request(number, RequestSpec(request_id=str(number), prompt="-"), [1], Sampling(), 1)


def speed(make: Callable[[], LengthControl], *machine: Any) -> float:
    runs = []
    for seed in range(SEEDS):
        here, control = Machine(*machine, seed=seed), make()
        control.know(here.tried_out(control.rehearses[1:]))
        runs.append(here.serve(control))
    return statistics.mean(runs)


def always(share: float) -> Callable[[int, int], float]:
    return lambda request, at: share


WORKLOADS: dict[str, tuple[Callable[[int, int], float], float]] = {  # acceptance, ms per guess
    "copying": (always(0.92), 0.1),
    "copying now and then": (lambda request, at: 0.95 if at // 60 % 3 == request % 3 else 0.1, 0.1),
    "half right": (always(0.5), 0.1),
    "a head that is often right": (always(0.65), 4.0),
    "a head that is sometimes right": (always(0.4), 4.0),
    "a costly guesser that is often right": (always(0.8), 15.0),
    "a costly guesser that is never right": (always(0.0), 15.0),
    "never right": (always(0.0), 0.1),
}


@pytest.mark.parametrize("places", [1, 4, 16])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_smart_control_is_near_the_best_length_and_not_below_plain_decoding(workload: str, places: int):
    machine = (places, *WORKLOADS[workload])
    plain = speed(lambda: FixedLength(0), *machine)
    best = max(plain, *(speed(lambda k=k: FixedLength(k), *machine) for k in (1, 2, 3, 5, 8)))  # type: ignore[misc]
    smart = speed(lambda: SmartLength(8), *machine)
    assert smart >= 0.9 * best
    assert smart >= 0.97 * plain


@pytest.mark.parametrize("places", [1, 16])
def test_probes_keep_to_their_share_of_the_time(places: int):
    """Guesses as slow as a step that are never right: what is lost are probes, and a first guess or two."""
    machine = Machine(places, always(0.0), 8.0, seed=0)
    control = SmartLength(4)
    control.know(machine.tried_out(control.rehearses[1:]))
    lost = total = 0
    chosen: list[Sequence[int]] = []
    for step in range(STEPS):
        plan = machine.plan()
        lengths = control.choose(SimpleNamespace(plan=plan), plan.slices, [4] * places)  # type: ignore[arg-type]
        duration = machine.iterate(lengths, plan)
        control.learn(plan, duration)
        total += duration
        if step >= 10:
            chosen.append(lengths)
            lost += duration - int(step_ns(places, places)) if any(lengths) else 0
    assert any(any(lengths) for lengths in chosen), "the estimate is kept alive"
    assert lost <= 2 * PROBE_SHARE * total


def test_where_even_right_guesses_do_not_pay_nobody_probes():
    machine = Machine(16, always(0.9), 36.0, seed=1)
    control = SmartLength(4)
    control.know(machine.tried_out(control.rehearses[1:]))
    machine.serve(control)
    assert sum(machine.lengths) == 16 * STEPS


def test_one_slow_step_does_not_steer_the_rest():
    """A verifying step that took ten times as long, and one that took twice as long, soon after the start."""
    machine = Machine(1, always(0.6), 1.0, seed=2)
    control = SmartLength(4)
    control.know(machine.tried_out(control.rehearses[1:]))
    for slow in (1, 10, 1, 2, 1):
        plan = machine.plan()
        duration = machine.iterate([2], plan)
        control.learn(plan, duration * slow)
    guessed = []
    for _ in range(20):
        plan = machine.plan()
        lengths = control.choose(SimpleNamespace(plan=plan), plan.slices, [4])  # type: ignore[arg-type]
        control.learn(plan, machine.iterate(lengths, plan))
        guessed.append(any(lengths))
    assert sum(guessed) >= 15


def test_a_loop_that_plans_ahead_is_told_to_rest_once_guessing_does_not_pay() -> None:
    control = SmartLength(3)
    assert not control.rest(), "nothing was chosen yet"
    control._rest = REST
    assert [control.rest() for _ in range(REST + 1)] == [True] * REST + [False]


def test_what_chose_to_guess_nothing_says_nothing_of_steps_that_are_planned_ahead() -> None:
    control, in_order, ahead = SmartLength(3), SmartLength(3), SmartLength(3)
    for one in (control, ahead):
        one.rest()
    part = Slice(None, 1, 10, False)  # type: ignore[arg-type]
    control.learn(Plan([part]), 1_000_000)
    in_order.learn(Plan([part]), 1_000_000)
    ahead.learn(Plan([part], rests=True), 1_000_000)
    assert [one.step_time.steps for one in (control, in_order, ahead)] == [0, 1, 1]
