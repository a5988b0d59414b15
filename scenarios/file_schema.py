"""The keys of a scenario file as a JSON Schema, for editors and other programs. ``python -m scenarios.file_schema`` writes it anew.

It says what each key takes. What keys must hold together, ``scenarios.load`` says when it reads a file.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from scenarios.schema import Scenario

SCHEMA = Path(__file__).with_name("scenario.schema.json")


class _AsWritten(GenerateJsonSchema):
    """What may be left empty and has parts of its own, such as a technique, may also be ``on`` or ``off``."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        nullable = super().nullable_schema(schema)
        if schema["schema"]["type"] in ("model", "definition-ref"):
            nullable = {"anyOf": [*nullable["anyOf"], {"type": "boolean"}]}
        return nullable


def schema_text(model: type[BaseModel] = Scenario) -> str:
    """A schema as its file has it."""
    schema = model.model_json_schema(by_alias=True, schema_generator=_AsWritten)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    SCHEMA.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
