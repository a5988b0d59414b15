"""Service-level objectives: the share of requests that met them, goodput, and capacity by bisection.

Attainment counts *all submitted* requests: one that failed, was dropped or never got a token has missed. (Dropping
hopeless requests must not raise the figure; "Revisiting SLO and goodput metrics", 2024.)

An objective's bounds are milliseconds, or so many times what the request alone on this machine would see: the presets of
the papers fit models of 13 to 175 billion parameters on their GPUs, a factor fits any model anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from store.errors import StoreError

GOODPUT_ATTAINMENT = 0.9
STRICT_ATTAINMENT = 0.99
STRICT_FACTOR, RELAXED_FACTOR = 5.0, 25.0
DEFAULT_SLO = "strict"
MOST_MS = 1e9


@dataclass(frozen=True)
class Alone:
    """What a request alone on the machine would see: one decode step, and computing one prompt token, in ms."""

    step_ms: float
    prompt_token_ms: float

    def ttft_ms(self, prompt_tokens: np.ndarray) -> np.ndarray:
        """Time to the first token of prompts of these lengths; at least one step."""
        return np.maximum(np.nan_to_num(self.step_ms), np.nan_to_num(self.prompt_token_ms) * prompt_tokens)


@dataclass(frozen=True)
class Slo:
    """A request meets it with a first token within ``ttft`` and a mean time per token within ``tpot``.

    Both in ms, or with ``relative`` in multiples of what the request alone would see.
    """

    name: str
    ttft: float
    tpot: float
    source: str = ""
    relative: bool = False

    def scaled(self, factor: float) -> Slo:
        """Both bounds multiplied (the SLO scale of DistServe's plots)."""
        return Slo(f"{self.name} x{factor:g}", self.ttft * factor, self.tpot * factor, self.source, self.relative)

    def bounds_ms(self, prompt_tokens: np.ndarray, alone: Alone | None) -> tuple[np.ndarray, float]:
        """Each request's bound on the first token, and the bound on the time per token.

        Raises:
            ValueError: a relative objective without ``alone``.
        """
        if not self.relative:
            return np.full(len(prompt_tokens), self.ttft), self.tpot
        if alone is None:
            raise ValueError("a relative objective needs to know what a request alone would see")
        return self.ttft * alone.ttft_ms(prompt_tokens), self.tpot * alone.step_ms

    @property
    def words(self) -> str:
        """The bounds, for people."""
        if self.relative:
            return f"first token within {self.ttft:g} x, each further one within {self.tpot:g} x of a request alone"
        return f"first token within {self.ttft:g} ms, {self.tpot:g} ms per further token"


_DISTSERVE = "DistServe (2024), plotting notebook"
_SARATHI = "Sarathi-Serve (2024)"
PRESETS: dict[str, Slo] = {
    slo.name: slo
    for slo in (
        Slo("strict", STRICT_FACTOR, STRICT_FACTOR, _SARATHI, True),
        Slo("relaxed", RELAXED_FACTOR, RELAXED_FACTOR, _SARATHI, True),
        Slo("chat-13b", 250, 100, _DISTSERVE),
        Slo("chat-66b", 2500, 150, _DISTSERVE),
        Slo("chat-175b", 4000, 200, _DISTSERVE),
        Slo("code-66b", 125, 200, _DISTSERVE),
        Slo("summarize-66b", 15_000, 150, _DISTSERVE),
    )
}


def parse_slo(text: str) -> Slo:
    """A preset's name, ``ttft=250,tpot=100`` (ms) or ``10x`` (times what a request alone would see).

    Raises:
        StoreError: it is none of these.
    """
    asked = text.strip().lower()
    if asked in PRESETS:
        return PRESETS[asked]
    factor = re.fullmatch(r"([0-9.]+)\s*x", asked)
    parts = [part.partition("=") for part in asked.split(",")]
    try:
        if factor:
            return _checked(Slo(asked, float(factor[1]), float(factor[1]), relative=True))
        given = {name.strip(): float(value) for name, _, value in parts}
        if given.keys() == {"ttft", "tpot"} and len(parts) == 2:
            return _checked(Slo(asked, given["ttft"], given["tpot"]))
    except ValueError:
        pass
    raise StoreError(
        "slo",
        f"{text!r} is no objective.",
        f"Write ttft=250,tpot=100 (ms), 5x (times what a request alone would see), or one of {', '.join(PRESETS)}.",
    )


def _checked(slo: Slo) -> Slo:
    if not (0 < slo.ttft <= MOST_MS and 0 < slo.tpot <= MOST_MS):
        raise ValueError("a bound is a positive number")
    return slo


def in_time(
    ttft_ms: np.ndarray, tpot_ms: np.ndarray, bound_ttft_ms: np.ndarray | float, bound_tpot_ms: float
) -> np.ndarray:
    """Whether each request met the bounds. A request that got its one token has no TPOT and meets that bound.

    ``ttft_ms``, ``tpot_ms``: by request, NaN where there is none.
    """
    within: np.ndarray = (ttft_ms <= bound_ttft_ms) & ((tpot_ms <= bound_tpot_ms) | np.isnan(tpot_ms))
    return within


def attainment(
    ttft_ms: np.ndarray,
    tpot_ms: np.ndarray,
    submitted: int,
    slo: Slo,
    prompt_tokens: np.ndarray,
    alone: Alone | None = None,
) -> float | None:
    """Share of ``submitted`` requests that met the objective; None of no requests. Arrays by request."""
    if submitted <= 0:
        return None
    return float(np.sum(in_time(ttft_ms, tpot_ms, *slo.bounds_ms(prompt_tokens, alone)))) / submitted


def goodput(rates: Sequence[float], attained: Sequence[float], share: float = GOODPUT_ATTAINMENT) -> float | None:
    """Highest rate measured with at least ``share`` of the requests in time at it and at every lower rate; None if none.

    Rates in requests/s per device (DistServe).
    """
    best = None
    for rate, reached in sorted(zip(rates, attained, strict=True)):
        if reached < share:
            break
        best = rate
    return best


@dataclass(frozen=True)
class Bisection:
    """The search for the highest rate at which a scenario is still served well, as a function of what was tried.

    First ``low`` and ``high`` themselves, then the middle (of the logarithms) of what held and what did not, until they are
    within a share ``tolerance``. Nothing is kept between calls, so a search goes on wherever it stopped.
    """

    low: float
    high: float
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high or not self.tolerance > 0:
            raise ValueError(f"capacity is looked for between 0 < low < high, not {self.low:g} and {self.high:g}")

    def next_rate(self, tried: Mapping[float, bool]) -> float | None:
        """The rate to try next; None when the search is over. ``tried``: rate -> whether it held."""
        if self.low not in tried:
            return self.low
        if not tried[self.low]:
            return None
        if self.high not in tried:
            return self.high
        held, failed = self.bracket(tried)
        if held is None or failed is None or failed - held <= self.tolerance * held:
            return None
        return float(np.sqrt(held * failed))

    def bracket(self, tried: Mapping[float, bool]) -> tuple[float | None, float | None]:
        """The highest rate that held below every one that did not, and the lowest that did not; None where there is none."""
        failed = min((rate for rate, held in tried.items() if not held), default=None)
        below = [rate for rate, held in tried.items() if held and (failed is None or rate < failed)]
        return max(below, default=None), failed

    def most_probes(self) -> int:
        """How many rates are tried at most."""
        halvings = np.log2(np.log(self.high / self.low) / np.log1p(self.tolerance))
        return 2 + max(0, int(np.ceil(halvings)))


def capacity(holds: Callable[[float], bool], low: float, high: float, *, tolerance: float = 0.05) -> float | None:
    """Highest rate at which ``holds(rate)``, found by bisection between ``low`` and ``high`` to a share ``tolerance``.

    None where even ``low`` fails; ``high`` where that holds.

    Raises:
        ValueError: not ``0 < low < high``.
    """
    search, tried = Bisection(low, high, tolerance), dict[float, bool]()
    while (rate := search.next_rate(tried)) is not None:
        tried[rate] = holds(rate)
    return search.bracket(tried)[0]
