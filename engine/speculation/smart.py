"""SmartSpec: guess as far as it pays, by useful tokens per second predicted anew for every iteration (SmartSpec, 2024;
papers 4.6).

    G = U / T      U: tokens the iteration is expected to emit, from measured acceptance
                   T: time it will take, from a regression on this run's own iterations

A request whose guesses are accepted with probability a gains a ** j tokens from its j-th guess. One k for all is
SmartSpec's scan; where lengths of their own promise clearly more, guesses of all requests are taken in the order of
that gain, equal ones together, as long as G is the greatest. Nothing guessed is one of the choices, and it stands
unless guessing promises a few percent more: that much the predictions err. While nothing is guessed a few requests try
a short guess now and then to keep the estimate alive, as often as probes take no more than a hundredth of the run's
time, and only where guesses that are nearly always right would pay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.plan import Decision, Plan, Slice
from engine.speculation.control import LengthControl
from engine.speculation.step_time import Load, Measured, StepTime

FIRST_ACCEPTANCE = 0.7
FIRST_COUNTS_FOR = 2.0  # tested guesses
REQUEST_WEIGHT = 0.1  # of a tested guess in its request's acceptance, once there are many
GLOBAL_WEIGHT = 0.02  # of a tested guess in the acceptance of all, once there are many
OTHERS_COUNT_FOR = 2.5  # tested guesses: the acceptance of all in that of a request
PROBE_SHARE = 0.01  # of the run's time that probes may take more than plain iterations
PROBE_LENGTH = 1  # tells more of what is tested for its price than a longer guess
PROBE_REQUESTS = 4  # guess in a probe: what few show holds for many, and costs less
CERTAIN = 0.95  # acceptance at which guesses are as good as they get
PROBES_SAVED = 2.0  # plain iterations' time that probes not made may add up to
MARGIN = 1.02  # guessing must promise this much more useful tokens per second than not guessing
REST = 32  # iterations that go without guesses, and without choosing anew, where the loop plans them ahead
OWN_MARGIN = 1.05  # and lengths of their own this much more than one for all: unequal ones take attention another pass
REHEARSED = (1, 0, 1, 2, 0, 1, 2)  # the first is not counted
ENOUGH_STEPS = 2  # iterations without guesses, and as many with, before the regression is trusted


class Record(NamedTuple):
    """Guesses accepted and tested; both fade, each guess's weight falling with those after it."""

    accepted: float
    tested: float

    def after(self, hit: bool, weight: float) -> Record:
        """With one more guess, which takes ``weight`` of what is known of many."""
        return Record(self.accepted * (1 - weight) + hit, self.tested * (1 - weight) + 1)


NOTHING = Record(0.0, 0.0)


class Acceptance:
    """How likely a guess is accepted, per request and over all; only tested guesses count, none after a rejected one.

    Means with forgetting: a fixed weight, as SmartSpec has it (0.15), once a request has shown enough, and before that
    every guess counts as one of the few there are, so that guessing in vain is noticed within a probe or two. A request
    leans on all of them until it has its own record.
    """

    def __init__(self) -> None:
        self._all = Record(FIRST_COUNTS_FOR * FIRST_ACCEPTANCE, FIRST_COUNTS_FOR)
        self._own: dict[int, Record] = {}  # by request

    @property
    def overall(self) -> float:
        return self._all.accepted / self._all.tested

    def of(self, request: int) -> float:
        own = self._own.get(request, NOTHING)
        return (own.accepted + OTHERS_COUNT_FOR * self.overall) / (own.tested + OTHERS_COUNT_FOR)

    def update(self, request: int, drafted: int, accepted: int) -> None:
        own = self._own.get(request, NOTHING)
        for hit in [True] * accepted + [False] * (accepted < drafted):
            own, self._all = own.after(hit, REQUEST_WEIGHT), self._all.after(hit, GLOBAL_WEIGHT)
        self._own[request] = own

    def forget(self, request: int) -> None:
        self._own.pop(request, None)


def best_lengths(
    acceptances: Sequence[float],
    reach: Sequence[int],
    others: int,
    seconds: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[list[int], float]:
    """The lengths with the most useful tokens per second.

    Args:
        acceptances, reach: of each request that could guess, and how far (one of them at least).
        others: tokens that are emitted whatever is guessed: those of requests that cannot guess.
        seconds: predicted time of iterations [n], given the guesses in all [n] and the longest one [n] of each.

    Returns:
        A length for each request, and the predicted tokens per second.
    """
    places = np.arange(1, max(reach) + 1)
    gains = np.round(np.asarray(acceptances)[:, None] ** places, 9)
    who, place = np.nonzero(places <= np.asarray(reach)[:, None])
    order = np.argsort(-gains[who, place], kind="stable")
    who, place = who[order], place[order]
    gains = gains[who, place]
    total = np.arange(len(gains) + 1)
    longest = np.maximum.accumulate(np.concatenate(([0], place + 1)))
    useful = len(reach) + others + np.concatenate(([0.0], gains.cumsum()))
    goodput = useful / seconds(total, longest)
    goodput[1:-1][gains[1:] == gains[:-1]] = 0.0  # equal ones are taken together
    best = int(goodput.argmax())
    return np.bincount(who[:best], minlength=len(reach)).tolist(), float(goodput[best])


def best_common_length(
    acceptances: Sequence[float],
    reach: Sequence[int],
    others: int,
    seconds: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[list[int], float]:
    """The same with one length for all, as far as each can guess: SmartSpec's scan over k."""
    places = np.arange(1, max(reach) + 1)
    within = places <= np.asarray(reach)[:, None]
    gains = np.where(within, np.asarray(acceptances)[:, None] ** places, 0.0)
    useful = len(reach) + others + np.concatenate(([0.0], gains.sum(0).cumsum()))
    total = np.concatenate(([0], within.sum(0).cumsum()))
    goodput = useful / seconds(total, np.arange(len(total)))
    best = int(goodput.argmax())
    return [min(best, most) for most in reach], float(goodput[best])


class SmartLength(LengthControl):
    """Chooses lengths by ``best_lengths``; learns acceptance and step time from every iteration."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.rehearses = tuple(min(length, most) for length in REHEARSED)
        self.acceptance = Acceptance()
        self.step_time = StepTime()
        self._last: dict[int, int] = {}  # request -> length chosen last
        self._seen = [0, 0]  # iterations without prompts: plain ones, verifying ones
        self._allowance = 0.0  # ns that probes may still cost
        self._probed = 0  # requests, in all
        self._rest = 0  # iterations still to go without choosing
        self._plans_ahead = False  # the loop does, where nothing is guessed

    def know(self, iterations: Iterable[Measured]) -> None:
        for iteration in iterations:
            self._seen[iteration.load.verifies] += 1
            self.step_time.update(*iteration)
        self.step_time.tried_out = min(self._seen) >= ENOUGH_STEPS

    def choose(self, builder: PlanBuilder, parts: Sequence[Slice], reach: Sequence[int]) -> list[int]:
        able = [i for i, most in enumerate(reach) if most > 0]
        if not able:
            return list(reach)
        requests, load = [parts[i].request.index for i in able], load_of(builder.plan)
        chosen, goodput, reason = self._best(load, requests, [reach[i] for i in able], len(parts) - len(able))
        lengths = [0] * len(parts)
        for i, request, length in zip(able, requests, chosen, strict=True):
            lengths[i] = length
            self._note(builder, request, length, reason, goodput)
        if min(self._seen) >= ENOUGH_STEPS:
            expected = self.step_time.predict(with_guesses(load, sum(lengths)), max(lengths))
            builder.plan.decisions.append(Decision(-1, "speculation", "predicted", sum(lengths), value=expected))
        return lengths

    def rest(self) -> bool:
        self._plans_ahead = True
        if not self._rest:
            return False
        self._rest -= 1
        return True

    def learn(self, plan: Plan, duration_ns: int) -> None:
        drafted = [part for part in plan.slices if part.drafted]
        if self._plans_ahead and not plan.rests and not drafted:
            return  # what chose to guess nothing: those that follow are planned ahead, and take less
        for part in drafted:
            self.acceptance.update(part.request.index, part.drafted, part.accepted)
        if plan.slices and not any(part.is_prefill for part in plan.slices):
            self._seen[bool(drafted)] += 1
        self.step_time.update(*measured(plan, duration_ns))
        self._allowance += PROBE_SHARE * duration_ns

    def describe(self) -> dict[str, float]:
        return {
            "acceptance": self.acceptance.overall,
            "step_time_fit": self.step_time.fit,
            **self.step_time.coefficients,
        }

    def forget(self, request_index: int) -> None:
        self.acceptance.forget(request_index)
        self._last.pop(request_index, None)

    def _best(
        self, load: Load, requests: Sequence[int], reach: Sequence[int], others: int
    ) -> tuple[list[int], float, str]:
        """Lengths, the useful tokens per second they promise, and why they are what they are."""
        if min(self._seen) < ENOUGH_STEPS:
            length = PROBE_LENGTH if self._seen[True] <= self._seen[False] else 0
            return self._a_few([min(length, most) for most in reach]), float("nan"), "probe"
        plain = self.step_time.predict(load, 0)

        def seconds(total: np.ndarray, longest: np.ndarray) -> np.ndarray:
            """Verifying is never faster than not, whatever a few noisy steps say."""
            verifying = self.step_time.predict_guesses(load, total)
            return (np.where(total > 0, np.maximum(plain, verifying), plain) + longest * self.step_time.draft_ns) / 1e9

        without = (len(reach) + others) / plain * 1e9
        acceptances = [self.acceptance.of(request) for request in requests]
        lengths, goodput = best_common_length(acceptances, reach, others, seconds)
        own, of_their_own = best_lengths(acceptances, reach, others, seconds)
        if of_their_own >= OWN_MARGIN * goodput:
            lengths, goodput = own, of_their_own
        if goodput >= MARGIN * without:
            return lengths, goodput, "acceptance"
        probe = self._a_few([min(PROBE_LENGTH, most) for most in reach])
        cost = 1e9 * float(seconds(np.array([sum(probe)]), np.array([max(probe)]))[0]) - plain
        self._allowance = min(self._allowance, PROBES_SAVED * plain)
        if cost < self._allowance and any(best_lengths([CERTAIN] * len(reach), reach, others, seconds)[0]):
            self._allowance -= cost
            return probe, without, "probe"
        self._rest = REST
        return [0] * len(reach), without, "acceptance"

    def _a_few(self, lengths: Sequence[int]) -> list[int]:
        """The lengths of a probe: of more requests than it needs, some in turn."""
        first, self._probed = self._probed % len(lengths), self._probed + PROBE_REQUESTS
        return [n if (i - first) % len(lengths) < PROBE_REQUESTS else 0 for i, n in enumerate(lengths)]

    def _note(self, builder: PlanBuilder, request: int, length: int, reason: str, goodput: float) -> None:
        """A decision row where the length changes: the length and the useful tokens per second it promises."""
        if self._last.get(request) == length:
            return
        self._last[request] = length
        value = goodput if goodput == goodput else None
        builder.plan.decisions.append(Decision(request, "speculation", reason, length, value=value))


def load_of(plan: Plan) -> Load:
    """What an iteration is asked to do."""
    kv_tokens = tokens = 0
    verifies = False
    for part in plan.slices:
        kv_tokens += part.context_len
        tokens += part.tokens
        verifies |= part.drafted > 0
    return Load(kv_tokens + tokens, tokens, len(plan.slices), verifies)


def measured(plan: Plan, duration_ns: int) -> Measured:
    """An iteration that has run, with how long it took."""
    longest = max((part.drafted for part in plan.slices), default=0)
    return Measured(load_of(plan), longest, duration_ns, plan.draft_ns)


def with_guesses(load: Load, guesses: int) -> Load:
    """The same, and ``guesses`` tokens more to verify."""
    return load._replace(
        kv_tokens=load.kv_tokens + guesses, tokens=load.tokens + guesses, verifies=load.verifies or guesses > 0
    )
