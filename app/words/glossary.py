"""The words of the field, from ``glossary.yaml``: what they mean, spelled out and in a sentence or two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

FILE = Path(__file__).with_name("glossary.yaml")


class Entry(BaseModel):
    """A word: its abbreviation spelled out, other forms of it, and what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    means: str
    name: str = ""
    also: tuple[str, ...] = ()


@cache
def groups() -> Mapping[str, Mapping[str, Entry]]:
    """Every word by the part of the lab it belongs to, in the file's order."""
    return TypeAdapter(dict[str, dict[str, Entry]]).validate_python(yaml.safe_load(FILE.read_text(encoding="utf-8")))


@cache
def entries() -> Mapping[str, Entry]:
    """The same without the parts."""
    return {word: entry for group in groups().values() for word, entry in group.items()}


def spelled_out(*words: str) -> str:
    """``TTFT: time to first token. ITL: inter-token latency.``"""
    return " ".join(f"{word}: {(entries()[word].name or entries()[word].means).rstrip('.')}." for word in words)


def not_explained(label: str, known: Mapping[str, Entry]) -> list[str]:
    """The words of a heading or label that are no word of the field, in small letters: ``per`` of *ITL per run*."""
    forms = {form.lower() for word, entry in known.items() for form in (word, entry.name, *entry.also) if form}
    rest = label.lower()
    for form in sorted(forms, key=len, reverse=True):
        rest = re.sub(rf"(?<![\w-]){re.escape(form)}(e?s)?(?![\w-])", " ", rest)
    return re.findall(r"[a-z][\w'-]*", rest)
