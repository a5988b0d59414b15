"""What a run's ``status.json`` says is in flight: the step being computed, and the requests that have arrived and not ended.

Rows tell what has ended; between two of them this is all there is, and with a long prompt in one step that is seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Moment = Annotated[int, Field(ge=0, le=2**62)]  # ns on the run's clock
Count = Annotated[int, Field(ge=0, le=2**53)]


class OpenRequest(NamedTuple):
    """A request that has arrived and not ended."""

    request: Count
    arrival_ns: Annotated[int, Field(ge=-(2**62), le=2**62)]
    first_token_ns: Moment | None
    last_token_ns: Moment | None


class Step(BaseModel):
    """A step that has begun and not ended. Its work is modelled; all zero while it is being planned."""

    model_config = ConfigDict(frozen=True)

    iteration: Count
    start_ns: Moment
    prefill_tokens: Count = 0
    decode_requests: Count = 0
    flops: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    bytes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class InFlight(BaseModel):
    """All of it, at one moment."""

    model_config = ConfigDict(frozen=True)

    at_ns: Moment
    iterations: Count  # steps that have ended
    running: Count
    waiting: Count
    step: Step | None = None
    requests: tuple[OpenRequest, ...] = ()  # those with a place first; not all where there are very many


def in_flight_of(status: Mapping[str, Any]) -> InFlight | None:
    """What a status says; None where it says nothing that can be read."""
    try:
        return InFlight.model_validate(status.get("in_flight"))
    except ValidationError:
        return None
