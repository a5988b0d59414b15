"""What a run says of itself in JSON texts: the columns of its ``run`` rows, and the head of its ``spec.json``.

Each text has a model. A text that its model does not accept says nothing: the column is empty and the run has a problem by that
name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from telemetry.json_file import Count, Nanoseconds, Unreadable, parse_as, plain
from telemetry.status import Fault, Label, Labels, Number, Summary, Words

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Facts(BaseModel):
    """Facts that are shown as they are; those that something is computed from have a type."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())
    __pydantic_extra__: dict[str, JsonValue]


class SpecHead(_Facts):
    """A spec without its requests: what lists, the table of runs and exports read of it."""

    scenario: Words = ""
    title: Words = ""
    engine: dict[str, JsonValue] = {}
    labels: Labels = []
    licences: dict[str, Words] = {}
    requests: Annotated[Any, Field(exclude=True)] = None
    experiment_id: Label | None = None
    workload_hash: Label | None = None
    created_unix_ns: Nanoseconds = 0


class Cpu(_Facts):
    cores: Annotated[int, Field(ge=1, le=2**20)] | None = None


class Environment(_Facts):
    """Versions, device, driver, threads."""

    cpu: Cpu | None = None


class Peaks(_Facts):
    """What the device was measured to do."""

    flops_per_s: Positive | None = None
    bytes_per_s: Positive | None = None


class ReadingTimes(_Facts):
    """What attention over the packed cache takes, and over an exact one."""

    context_tokens: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    packed: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    plain: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None


class ModelFacts(_Facts):
    """Shape, parameters and cache of the model that was served."""

    name: Words = ""
    dtype: Label = ""
    layers: Count | None = None
    vocab: Count | None = None
    parameters: Count | None = None
    weight_bytes: Number = None
    kv_bytes_per_token: Positive | None = None
    kv_full_bytes_per_token: Positive | None = None
    kv_capacity_tokens: Count | None = None
    mean_request_tokens: Annotated[float, Field(ge=0)] | None = None
    kv_codec: Label | None = None
    kv_bits: Positive | None = None
    kv_window: Count | None = None
    kv_tails: Count | None = None
    kv_tail_tokens: Count | None = None
    kv_attention_s: ReadingTimes | None = None


TEXTS: Mapping[str, TypeAdapter[Any]] = {
    "spec": TypeAdapter(SpecHead),
    "environment": TypeAdapter(Environment),
    "peaks": TypeAdapter(Peaks),
    "model": TypeAdapter(ModelFacts),
    "summary": TypeAdapter(Summary),
    "error": TypeAdapter(Fault),
    "labels": TypeAdapter(Labels),
}
"""The JSON columns of a run's rows."""


def fact(name: str, text: str) -> Any:
    """A JSON column as Python values, with the keys that were given. Raises ``Unreadable`` naming the column."""
    return plain(parse_as(TEXTS[name], text.encode("utf-8", "replace"), Path(f"run.{name}")))


def facts_of(event: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The JSON columns that a run's row has, as Python values; and what cannot be read of it."""
    facts: dict[str, Any] = {}
    problems = []
    for name in TEXTS:
        if event.get(name) is not None:
            try:
                facts[name] = fact(name, event[name])
            except Unreadable as error:
                problems.append(str(error))
    return facts, problems


def as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
