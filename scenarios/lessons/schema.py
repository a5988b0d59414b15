"""The keys of a lesson's file as a JSON Schema, for editors and other programs. ``python -m scenarios.lessons.schema`` writes it anew."""

from __future__ import annotations

from pathlib import Path

from scenarios.lessons.lesson import Lesson
from scenarios.papers.schema import schema_text

SCHEMA = Path(__file__).with_name("lesson.schema.json")


def main() -> None:
    SCHEMA.write_text(schema_text(Lesson), encoding="utf-8")


if __name__ == "__main__":
    main()
