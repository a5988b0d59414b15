"""The keys of cards and claim files as JSON Schemas, for editors and other programs. ``python -m scenarios.papers.schema`` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from scenarios.papers.card import Card
from scenarios.papers.claim import Claim

SCHEMA = Path(__file__).with_name("card.schema.json")
CLAIM_SCHEMA = Path(__file__).with_name("claim.schema.json")


def schema_text(model: type[BaseModel] = Card) -> str:
    """A schema as its file has it."""
    return json.dumps(model.model_json_schema(by_alias=True), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    CLAIM_SCHEMA.write_text(schema_text(Claim), encoding="utf-8")


if __name__ == "__main__":
    main()
