"""How many tokens: the distributions that prompt and output lengths are drawn from."""

from __future__ import annotations

import bisect
import itertools
import random
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from scenarios.part import Part

LONGEST = 1_000_000


class Fixed(Part):
    """Always ``tokens``. A bare number in the file means this."""

    kind: Literal["fixed"] = "fixed"
    tokens: int = Field(ge=1, le=LONGEST)

    def draw(self, rng: random.Random, traced: int) -> int:
        return self.tokens


class Bounded(Part):
    """Base of the distributions cut to ``low`` .. ``high``, both included."""

    low: int = Field(1, ge=1, le=LONGEST)
    high: int = Field(LONGEST, ge=1, le=LONGEST)

    @model_validator(mode="after")
    def _ordered(self) -> Bounded:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self

    def clip(self, value: float) -> int:
        return min(max(round(value), self.low), self.high)


class Uniform(Bounded):
    """Every whole number from ``low`` to ``high`` alike."""

    kind: Literal["uniform"] = "uniform"
    low: int = Field(ge=1, le=LONGEST)
    high: int = Field(ge=1, le=LONGEST)

    def draw(self, rng: random.Random, traced: int) -> int:
        return rng.randint(self.low, self.high)


class Normal(Bounded):
    """Normal with standard deviation ``cv`` x ``mean`` (DeepSpeed-FastGen: cv 0.3); beyond the bounds, the bound."""

    kind: Literal["normal"] = "normal"
    mean: float = Field(gt=0, le=LONGEST)
    cv: float = Field(0.3, ge=0, le=10)

    def draw(self, rng: random.Random, traced: int) -> int:
        return self.clip(rng.normalvariate(self.mean, self.cv * self.mean))


class Lognormal(Bounded):
    """Lognormal with ``median`` and ``sigma`` (of the logarithm); beyond the bounds, the bound."""

    kind: Literal["lognormal"] = "lognormal"
    median: float = Field(gt=0, le=LONGEST)
    sigma: float = Field(1.0, ge=0, le=5)

    def draw(self, rng: random.Random, traced: int) -> int:
        return self.clip(self.median * rng.lognormvariate(0.0, self.sigma))


class Zipf(Bounded):
    """P(low + r) proportional to 1 / (r + 1)^theta for r = 0 .. high - low.

    BurstGPT's demo is theta 1.1 on 1 .. 1024; Sarathi-Serve's generator is theta 0.6 on 1024 .. 4096 total tokens.
    """

    kind: Literal["zipf"] = "zipf"
    theta: float = Field(1.1, ge=0, le=10)
    high: int = Field(1024, ge=1, le=LONGEST)

    @cached_property
    def _cumulative(self) -> list[float]:
        return list(itertools.accumulate((rank + 1) ** -self.theta for rank in range(self.high - self.low + 1)))

    def draw(self, rng: random.Random, traced: int) -> int:
        weights = self._cumulative
        return self.low + min(bisect.bisect_right(weights, rng.random() * weights[-1]), len(weights) - 1)


class FromTrace(Part):
    """The trace row's own length times ``scale``, at least 1 and at most ``high``. Needs arrivals of kind trace."""

    kind: Literal["trace"] = "trace"
    scale: float = Field(1.0, gt=0)
    high: int = Field(LONGEST, ge=1, le=LONGEST)

    def draw(self, rng: random.Random, traced: int) -> int:
        return min(max(round(traced * self.scale), 1), self.high)


class Reasoning(Part):
    """A long thought (lognormal, cut at ``budget``), then an answer uniform in ``answer_low`` .. ``answer_high``."""

    kind: Literal["reasoning"] = "reasoning"
    median: float = Field(800, gt=0, le=LONGEST)
    sigma: float = Field(1.0, ge=0, le=5)
    budget: int = Field(4096, ge=1, le=LONGEST)
    answer_low: int = Field(50, ge=1, le=LONGEST)
    answer_high: int = Field(200, ge=1, le=LONGEST)

    @model_validator(mode="after")
    def _ordered(self) -> Reasoning:
        if self.answer_low > self.answer_high:
            raise ValueError(f"answer_low ({self.answer_low}) is above answer_high ({self.answer_high})")
        return self

    def draw(self, rng: random.Random, traced: int) -> int:
        thought = min(max(round(self.median * rng.lognormvariate(0.0, self.sigma)), 1), self.budget)
        return thought + rng.randint(self.answer_low, self.answer_high)


def _bare_number(value: Any) -> Any:
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    return {"kind": "fixed", "tokens": value} if isinstance(value, int) and not isinstance(value, bool) else value


_Kinds = Annotated[
    Fixed | Uniform | Normal | Lognormal | Zipf | FromTrace | Reasoning,
    Field(discriminator="kind"),
]
Lengths = Annotated[
    _Kinds,
    BeforeValidator(_bare_number, json_schema_input_type=_Kinds | Annotated[int, Field(ge=1, le=LONGEST)]),
]
