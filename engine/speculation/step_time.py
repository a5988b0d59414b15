"""How long an iteration takes, learnt from this run's own iterations: SmartSpec's regression (papers 4.6)."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

NAMES = ("per_kv_token_ns", "per_token_ns", "per_sequence_ns", "verify_ns", "base_ns")
_SCALE = np.array([1000.0, 10.0, 10.0, 1.0, 1.0])  # brings the features to the same size
_MEMORY = 0.995  # weight of all earlier iterations at each new one: about the last 200 count
_RIDGE = 1e-3  # keeps coefficients finite while iterations are too alike to tell them apart
_OUTLIER = 3.0  # iterations and guesses this many times slower than expected are the machine's, not the batch's
_KNOWN = 8  # iterations until an outlier is told from the rest, where none were tried out before
_SURPRISE = 1.4  # one iteration counts as at most so many times what was expected, or so many times less
_SETTLED = 32  # iterations until the line hardly moves from one to the next,
_SOLVE_EVERY = 8  # and is worked out anew only so often
_FLOOR = 0.5  # of the shortest of the recent iterations: no prediction is below
_RECENT = 64
_LOCAL_WEIGHT = 0.05
_DRAFT_WEIGHT = 0.1


class Load(NamedTuple):
    """What an iteration's time depends on."""

    kv_tokens: int  # keys read in one layer
    tokens: int
    sequences: int
    verifies: bool


class Measured(NamedTuple):
    """An iteration that was timed: its load, its longest guess, how long it took, and the part of that spent
    guessing."""

    load: Load
    longest: int
    duration_ns: int
    draft_ns: int


class StepTime:
    """T = c_kv kv_tokens + c_tok tokens + c_seq sequences + c_spec [verifies] + c_0, and guessing by the length of the
    longest guess.

    Least squares with forgetting. A batch of few tokens does not cost exactly its share of a line, so what iterations
    of a certain number of tokens took against the line corrects the prediction for that number.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.tried_out = (
            False  # the first iterations were made to tell one load from another, so surprises count as such
        )
        self.draft_ns = 0.0  # guessing, per token of the longest guess
        self._drafts = 0  # iterations it was learnt from
        self._gram = np.zeros((5, 5))
        self._moment = np.zeros(5)
        self._by_unit: tuple[float, ...] | None = None
        self._local: tuple[dict[int, float], dict[int, float]] = (
            {},
            {},
        )  # of plain, of verifying ones: tokens -> measured / line
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._squares = self._total = self._mean = 0.0  # of predictions against measurements

    def update(self, load: Load, longest: int, duration_ns: int, draft_ns: int) -> None:
        """Take in an iteration: its load, its longest guess, how long it took, and the part of that spent guessing."""
        measured = float(duration_ns - draft_ns)
        self._recent.append(measured)
        if longest > 0:
            share = min(draft_ns / longest, _OUTLIER * self.draft_ns or float("inf"))
            self._drafts += 1
            self.draft_ns += (share - self.draft_ns) * max(_DRAFT_WEIGHT, 1 / self._drafts)
        if self.steps:
            line, local = self._line(load), self._local[load.verifies]
            known = local.get(load.tokens, 1.0)
            here = line * known
            if (self.tried_out or self.steps >= _KNOWN) and here > 0:
                if measured > _OUTLIER * here:
                    return
                measured = min(_SURPRISE * here, max(here / _SURPRISE, measured))
            if line > 0:  # more than twice or less than half is noise, not the place's own cost
                share = min(2.0, max(0.5, measured / line))
                local[load.tokens] = known + _LOCAL_WEIGHT * (share - known)
            self._judge(measured, line)
        features = _features(load)
        self._gram = _MEMORY * self._gram + np.outer(features, features)
        self._moment = _MEMORY * self._moment + features * measured
        self.steps += 1
        if self.steps < _SETTLED or self.steps % _SOLVE_EVERY == 0:
            self._by_unit = None

    def predict(self, load: Load, longest: int) -> float:
        """Expected ns of an iteration whose longest guess has ``longest`` tokens; at least 1."""
        line = self._line(load) * self._local[load.verifies].get(load.tokens, 1.0)
        return max(1.0, max(self._floor(), line) + longest * self.draft_ns)

    def predict_guesses(self, load: Load, guesses: np.ndarray) -> np.ndarray:
        """Expected ns of verifying ``guesses`` [n] more tokens beside what ``load`` has, guessing not counted; at least
        1."""
        first = self._line(load._replace(verifies=True))
        kv, token = self._line_by_unit()[:2]
        local = self._local[True]
        known = np.fromiter((local.get(load.tokens + n, 1.0) for n in guesses.tolist()), float, len(guesses))
        return np.maximum(max(1.0, self._floor()), (first + (kv + token) * guesses) * known)

    @property
    def coefficients(self) -> dict[str, float]:
        """The regression's line by name, in ns, and what guessing one token costs."""
        return dict(zip(NAMES, self._line_by_unit(), strict=True)) | {"draft_per_token_ns": self.draft_ns}

    @property
    def fit(self) -> float:
        """Share of the iterations' variance the predictions explained (R squared); 1 is all of it."""
        return 1.0 - self._squares / self._total if self._total > 0 else 0.0

    def _line(self, load: Load) -> float:
        kv, token, sequence, verify, base = self._line_by_unit()
        return kv * load.kv_tokens + token * load.tokens + sequence * load.sequences + verify * load.verifies + base

    def _line_by_unit(self) -> tuple[float, ...]:
        """The coefficients, in ns, in the order of ``NAMES``."""
        if self._by_unit is None:
            self._by_unit = tuple((self._solve() / _SCALE).tolist())
        return self._by_unit

    def _floor(self) -> float:
        return _FLOOR * min(self._recent, default=0.0)

    def _solve(self) -> np.ndarray:
        """Least squares in which nothing shortens a step: what would be negative is left out.

        Else, while steps of one kind have hardly been seen, a prompt's long step can make plain steps look slower than
        verifying ones.
        """
        ridge = _RIDGE * np.eye(5) * max(1.0, self._gram.trace() / 5) * 0.01
        kept = list(range(5))
        coefficients = np.zeros(5)
        while kept:
            coefficients[:] = 0.0
            coefficients[kept] = np.linalg.solve((self._gram + ridge)[np.ix_(kept, kept)], self._moment[kept])
            worst = min(kept, key=lambda place: coefficients[place])
            if coefficients[worst] >= 0:
                break
            kept.remove(worst)
        return coefficients

    def _judge(self, measured: float, predicted: float) -> None:
        before = self._mean
        self._mean += (measured - before) / self.steps
        self._total += (measured - before) * (measured - self._mean)
        self._squares += (measured - predicted) ** 2


def _features(load: Load) -> np.ndarray:
    return np.array([load.kv_tokens, load.tokens, load.sequences, float(load.verifies), 1.0]) / _SCALE
