"""What every settings class is made of: checked once, never changed, and each field with the words the page shows.

Field metadata (``json_schema_extra``): ``group`` (where the page puts it), ``unit``, ``paper``, ``technique`` (it is a
toggle), ``leading`` (of a technique: its toggle is always in sight, those of the others on request), ``advanced``
(shown on request).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

LARGEST_COUNT = 2**31 - 1
"""The largest number of tokens, blocks or requests, and the largest priority: what a column of the rows holds."""

LATEST_NS = 2**62
"""The latest moment of a run, 146 years after its start: what is added to it still fits into 64 bits."""


@dataclass(frozen=True)
class Aliases:
    """Metadata of a field that is a list of words: other spellings that are read as one of them, in any case."""

    of: Mapping[str, str]  # spelling -> word

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._word, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"aliases": {word: spelling for spelling, word in self.of.items()}}

    def _word(self, value: Any) -> Any:
        return self.of.get(value.lower(), value) if isinstance(value, str) else value


@dataclass(frozen=True, eq=False)  # told apart by identity: what it names may grow
class OneOf:
    """Metadata of a text that names a member of a registry. What is registered later can be chosen from then on."""

    names: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"enum": list(self.names)}

    def _known(self, value: str) -> str:
        if value not in self.names:
            words = " or ".join(repr(name) for name in self.names)
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": words})
        return value


@dataclass(frozen=True)
class Accepts:
    """Metadata of a field whose pattern is no way to say what it accepts: the words that are."""

    words: str


SHORT_FORMATS = Aliases({"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"})
"""Short names of number formats."""


def worth_saying(bound: float) -> bool:
    """Whether a person needs to hear of a bound: not of one that is only as wide as a column."""
    return abs(bound) < LARGEST_COUNT


class Settings(BaseModel):
    """Base of every settings class: unknown keys are errors, values never change after they are checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    def reads(self, name: str) -> bool:
        """Whether a field matters beside the others as they are set."""
        return True


def setting(
    default: Any,
    title: str,
    help: str,
    *,
    group: str,
    unit: str | None = None,
    paper: str | None = None,
    technique: bool = False,
    leading: bool = False,
    advanced: bool = False,
    **bounds: Any,
) -> Any:
    """A pydantic field with the metadata the page, the command line and the snapshot read."""
    extra: dict[str, Any] = {"group": group, "technique": technique, "advanced": advanced}
    if unit:
        extra["unit"] = unit
    if paper:
        extra["paper"] = paper
    if leading:
        extra["leading"] = True
    return Field(default, title=title, description=help, json_schema_extra=extra, **bounds)
