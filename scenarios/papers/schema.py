"""The cards' keys as a JSON Schema, for editors and other programs. ``python -m scenarios.papers.schema`` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path

from scenarios.papers.card import Card

SCHEMA = Path(__file__).with_name("card.schema.json")


def schema_text() -> str:
    """The schema as its file has it."""
    return json.dumps(Card.model_json_schema(by_alias=True), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    SCHEMA.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
