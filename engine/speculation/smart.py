"""SmartSpec: guess as far as it pays, by useful tokens per second predicted anew for every iteration (SmartSpec, 2024; papers 4.6).

    G = U / T      U: tokens the iteration is expected to emit, from measured acceptance
                   T: time it will take, from a regression on this run's own iterations

A request whose guesses are accepted with probability a gains a ** j tokens from its j-th guess. Guesses of all requests are taken
in the order of that gain, equal ones together, as long as G is the greatest; where all requests are alike this is SmartSpec's
scan over one k for all. Nothing guessed is one of the choices, and then now and then a short guess keeps the estimate alive,
less and less often while it is in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from engine.scheduler import Decision, Plan, PlanBuilder, Slice
from engine.speculation.control import LengthControl
from engine.speculation.steptime import Load, StepTime

FIRST_ACCEPTANCE = 0.7
FIRST_COUNTS_FOR = 2.0  # tested guesses
REQUEST_WEIGHT = 0.15  # of a tested guess in its request's acceptance, once there are many
GLOBAL_WEIGHT = 0.02  # of a tested guess in the acceptance of all, once there are many
OTHERS_COUNT_FOR = 2.0  # tested guesses: the acceptance of all in that of a request
# iterations that could have guessed and did not, until one probes; twice as many after a probe in vain
PROBE_EVERY = 24
PROBE_AT_LEAST_EVERY = 384
PROBE_LENGTH = 2
PROBE_REQUESTS = 4  # guess in a probe: what few show holds for many, and costs less
COSTLY_GUESS = 0.1  # of an iteration: such guesses are probed one at a time
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

    Means with forgetting: SmartSpec's fixed weight (0.15) once a request has shown enough, and before that every guess counts as one of the
    few there are, so that guessing in vain is noticed within a probe or two. A request leans on all of them until it has its own record.
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
    acceptances: Sequence[float], reach: Sequence[int], others: int, seconds: Callable[[int, int], float]
) -> tuple[list[int], float]:
    """The lengths with the most useful tokens per second.

    Args:
        acceptances, reach: of each request that could guess, and how far.
        others: tokens that are emitted whatever is guessed: those of requests that cannot guess.
        seconds: predicted time of the iteration, given the guesses in all and the longest one.

    Returns:
        A length for each request, and the predicted tokens per second.
    """
    gains = sorted(
        (round(a**j, 9), j, i)
        for i, (a, most) in enumerate(zip(acceptances, reach, strict=True))
        for j in range(1, most + 1)
    )
    lengths = [0] * len(reach)
    useful = float(len(reach) + others)
    best, goodput = list(lengths), useful / seconds(0, 0)
    total = longest = 0
    for gain, alike in groupby(reversed(gains), key=lambda entry: entry[0]):
        for _, j, i in alike:
            lengths[i] = max(lengths[i], j)
            longest = max(longest, j)
            total += 1
            useful += gain
        if (candidate := useful / seconds(total, longest)) > goodput:
            best, goodput = list(lengths), candidate
    return best, goodput


class SmartLength(LengthControl):
    """Chooses lengths by ``best_lengths``; learns acceptance and step time from every iteration."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.acceptance = Acceptance()
        self.step_time = StepTime()
        self._last: dict[int, int] = {}  # request -> length chosen last
        self._seen = [0, 0]  # iterations without prompts: plain ones, verifying ones
        self._patience = PROBE_EVERY
        self._idle = 0  # iterations that could have guessed and did not, since the last probe
        self._probed = 0  # requests, in all

    def choose(self, builder: PlanBuilder, parts: Sequence[Slice], reach: Sequence[int]) -> list[int]:
        able = [i for i, most in enumerate(reach) if most > 0]
        if not able:
            return list(reach)
        acceptances = [self.acceptance.of(parts[i].request.index) for i in able]
        chosen, goodput, reason = self._best(builder, acceptances, [reach[i] for i in able], len(parts) - len(able))
        if not any(chosen) and reason != "probe":
            self._idle += 1
            if self._idle >= self._patience:
                self._idle, reason = 0, "probe"
                self._patience = min(2 * self._patience, PROBE_AT_LEAST_EVERY)
                chosen = [min(self._probe_length(builder), reach[i]) for i in able]
        elif reason != "probe":
            self._patience = PROBE_EVERY
        if reason == "probe":
            chosen = self._a_few(chosen)
        lengths = [0] * len(parts)
        for i, length in zip(able, chosen, strict=True):
            lengths[i] = length
            self._note(builder, parts[i].request.index, length, reason, goodput)
        if min(self._seen) >= ENOUGH_STEPS:
            expected = self.step_time.predict(load_of(builder.plan, sum(lengths)), max(lengths))
            builder.plan.decisions.append(Decision(-1, "speculation", "predicted", sum(lengths), value=expected))
        return lengths

    def learn(self, plan: Plan, duration_ns: int) -> None:
        drafted = [part for part in plan.slices if part.drafted]
        for part in drafted:
            self.acceptance.update(part.request.index, part.drafted, part.accepted)
        if plan.slices and not any(part.is_prefill for part in plan.slices):
            self._seen[bool(drafted)] += 1
        longest = max((part.drafted for part in drafted), default=0)
        self.step_time.update(load_of(plan, 0), longest, duration_ns, plan.draft_ns)

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
        self, builder: PlanBuilder, acceptances: Sequence[float], reach: Sequence[int], others: int
    ) -> tuple[list[int], float, str]:
        if min(self._seen) < ENOUGH_STEPS:
            length = self._probe_length(builder) if self._seen[True] <= self._seen[False] else 0
            return [min(length, most) for most in reach], float("nan"), "probe"
        plain = self.step_time.predict(load_of(builder.plan, 0), 0)

        def seconds(total: int, longest: int) -> float:
            """Verifying is never faster than not, whatever a few noisy steps say."""
            verifying = self.step_time.predict(load_of(builder.plan, total), 0)
            return (max(plain, verifying) + longest * self.step_time.draft_ns) / 1e9

        return *best_lengths(acceptances, reach, others, seconds), "acceptance"

    def _a_few(self, lengths: Sequence[int]) -> list[int]:
        """The lengths of a probe: of more requests than it needs, some in turn."""
        first, self._probed = self._probed % len(lengths), self._probed + PROBE_REQUESTS
        return [n if (i - first) % len(lengths) < PROBE_REQUESTS else 0 for i, n in enumerate(lengths)]

    def _probe_length(self, builder: PlanBuilder) -> int:
        """Guesses of a probe: one where guessing is so slow that probes would be felt."""
        usual = self.step_time.predict(load_of(builder.plan, 0), 0)
        return 1 if self.step_time.steps and self.step_time.draft_ns > COSTLY_GUESS * usual else PROBE_LENGTH

    def _note(self, builder: PlanBuilder, request: int, length: int, reason: str, goodput: float) -> None:
        """A decision row where the length changes: the length and the useful tokens per second it promises."""
        if self._last.get(request) == length:
            return
        self._last[request] = length
        value = goodput if goodput == goodput else None
        builder.plan.decisions.append(Decision(request, "speculation", reason, length, value=value))


def load_of(plan: Plan, guesses: int) -> Load:
    """What an iteration is asked to do: the plan, and ``guesses`` more tokens to verify."""
    return Load(
        kv_tokens=sum(part.context_len + part.tokens for part in plan.slices) + guesses,
        tokens=plan.num_tokens + guesses,
        sequences=len(plan.slices),
        verifies=guesses > 0 or any(part.drafted for part in plan.slices),
    )
