"""How long somebody thinks, or a tool works, between an answer and the next turn: the distributions of pauses, in seconds."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from engine.config import LATEST_NS
from scenarios.part import Part

LONGEST_S = LATEST_NS / 1e9


class Pause(Part):
    """Base of the distributions. Keys that end in ``_s`` are times."""

    def draw(self, rng: random.Random) -> float:
        """One pause, in seconds."""
        raise NotImplementedError

    def stretched(self, factor: float) -> Self:
        """The same pauses, ``factor`` times as long."""
        times = {key: getattr(self, key) * factor for key in type(self).model_fields if key.endswith("_s")}
        return self.model_copy(update=times)


class FixedPause(Pause):
    """Always ``pause_s``. A bare number in the file means this."""

    kind: Literal["fixed"] = "fixed"
    pause_s: float = Field(ge=0, le=LONGEST_S)

    def draw(self, rng: random.Random) -> float:
        return self.pause_s


class UniformPause(Pause):
    """Every time from ``low_s`` to ``high_s`` alike."""

    kind: Literal["uniform"] = "uniform"
    low_s: float = Field(ge=0, le=LONGEST_S)
    high_s: float = Field(ge=0, le=LONGEST_S)

    @model_validator(mode="after")
    def _ordered(self) -> UniformPause:
        if self.low_s > self.high_s:
            raise ValueError(f"low_s ({self.low_s}) is above high_s ({self.high_s})")
        return self

    def draw(self, rng: random.Random) -> float:
        return rng.uniform(self.low_s, self.high_s)


class LognormalPause(Pause):
    """Lognormal with ``median_s`` and ``sigma`` (of the logarithm), at most ``longest_s``: most tools are quick, a few are not."""

    kind: Literal["lognormal"] = "lognormal"
    median_s: float = Field(gt=0, le=LONGEST_S)
    sigma: float = Field(1.0, ge=0, le=5)
    longest_s: float = Field(LONGEST_S, gt=0, le=LONGEST_S)

    def draw(self, rng: random.Random) -> float:
        return min(self.median_s * rng.lognormvariate(0.0, self.sigma), self.longest_s)

    def stretched(self, factor: float) -> Self:
        longer = super().stretched(factor)
        return longer.model_copy(update={"longest_s": min(longer.longest_s, LONGEST_S)})


def _bare_number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return (
        {"kind": "fixed", "pause_s": value} if isinstance(value, int | float) and not isinstance(value, bool) else value
    )


_Kinds = Annotated[FixedPause | UniformPause | LognormalPause, Field(discriminator="kind")]
Pauses = Annotated[_Kinds, BeforeValidator(_bare_number, json_schema_input_type=_Kinds | Annotated[float, Field(ge=0)])]
