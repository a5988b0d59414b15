"""What a model's files say, checked before it is believed: every key is used, known to change nothing, or refused by
name.

A file's keys are fields of a pydantic model that forbids all others. Whatever does not fit becomes one form of error:
the file and the key, what it held, and what would be right, which is the field's description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.config.errors import EngineError

K = TypeVar("K", bound="Keys")

Size = Annotated[int, Field(ge=1, le=2**28)]
Layers = Annotated[int, Field(ge=1, le=4096)]
Context = Annotated[int, Field(ge=1, le=2**22)]  # tokens; rotations of every position are computed at the start
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]
One = Annotated[float, Field(ge=1, le=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]

_NEEDED = {
    "int_type": "A whole number is needed here.",
    "float_type": "A number is needed here.",
    "finite_number": "A finite number is needed here.",
    "bool_type": "true or false is needed here.",
    "string_type": "A text is needed here.",
    "list_type": "A list is needed here.",
    "none_required": "This is not covered.",
    "model_type": "A map of keys and values is needed here.",
    "model_attributes_type": "A map of keys and values is needed here.",
}


class Keys(BaseModel):
    """Keys of a file, by name or by ``alias``; types as they stand there, no text in place of numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    def has(self, name: str) -> bool:
        """Whether the file itself holds this key."""
        return name in self.model_fields_set


def read_keys(model: type[K], data: Mapping[str, Any], kind: str, file: str, prefix: str = "") -> K:
    """``data`` as ``model``.

    Args:
        kind: of the error.
        file: name of the file, for the error.
        prefix: what stands before the keys in the file, for the error.

    Raises:
        EngineError: the first key that is missing, unknown, of the wrong type or out of range.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    names, description = _place(model, first["loc"])
    field = f"{file}: {prefix}{'.'.join(names)}"
    if first["type"] == "missing":
        raise EngineError(kind, field, None, "This key is missing.", f"{description} Get a complete copy.")
    value = shortened(first["input"])
    if first["type"] == "extra_forbidden":
        message = "This key is not known: what it changes would be left out."
        mend = "Choose a model without it, or take the key out if it has nothing to do with the computation."
        raise EngineError(kind, field, value, message, mend)
    message = _NEEDED.get(first["type"], first["msg"].replace("Input should be", "It must be").rstrip(".") + ".")
    raise EngineError(kind, field, value, message, description)


def shortened(value: Any) -> Any:
    """The value, or the beginning of what it looks like where that is long."""
    text = repr(value)
    return value if len(text) <= 200 else f"{text[:200]}..."


def _place(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], str]:
    """Names on the way to a value as they stand in the file, and what the last one that is known is for."""
    description, here = "Check the file against the original.", model
    for part in loc:
        field = {field.alias or name: field for name, field in here.model_fields.items()}.get(str(part))
        if field is None:
            break
        description = field.description or description
        inside = [kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, Keys)]
        here = inside[0] if inside else Keys
    return [str(part) for part in loc], description


def read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """A JSON object from a model's directory; an empty one where an optional file is missing."""
    if not path.is_file():
        if not required:
            return {}
        raise EngineError(
            "missing-file",
            "model",
            str(path.parent),
            f"There is no {path.name} in this directory.",
            "Give the directory that save_pretrained or the hub made, with config.json and *.safetensors in it.",
        )
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise EngineError(
            "bad-file", "model", str(path), f"This is not valid JSON: {error}.", "Download it again."
        ) from error
    if not isinstance(content, dict):
        raise EngineError("bad-file", "model", str(path), "A JSON object is needed here.", "Download it again.")
    return content
