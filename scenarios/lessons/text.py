"""Sentences of lessons: every figure in them is a placeholder, ``{figure}`` or ``{figure interval}``, that the run fills."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import StringConstraints

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
NAMES = re.compile(r"\b[A-Za-z]+\d+\b")
"""Words with a number in them that are names and no figures, such as p99 and int4."""
FIGURES = re.compile(
    r"\d|\b(?:twice|thrice|half|halves|halved|doubled?|doubles|tripled?|quarters?|\w+fold"
    r"|(?:two|three|four|five|six|seven|eight|nine|ten|hundred|thousand)(?: hundred| thousand)? times)\b",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
INTERVAL = " interval"
PREDICTED, REASON, REPEATS = "predicted", "reason", "repeats"
ALWAYS = frozenset({PREDICTED, REPEATS})
"""What every explanation can say beside figures: the prediction in words, and how often each variant was served."""


def placeholders(text: str) -> list[str]:
    """The names in braces, in order."""
    return PLACEHOLDER.findall(text)


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with every placeholder replaced. Raises KeyError for one that has no value."""
    return PLACEHOLDER.sub(lambda found: values[found[1]], text)


def wrong_with(text: str) -> tuple[str, str] | None:
    """What is wrong with a text, and what would be right; None where its figures are all placeholders."""
    bare = PLACEHOLDER.sub("", text)
    if "{" in bare or "}" in bare:
        return "A brace has no partner.", "A placeholder is {figure}, and braces stand for nothing else."
    found = FIGURES.search(NAMES.sub("", bare))
    if found:
        message = f"The text states a figure ({found[0]}), and figures come from the run."
        return message, "Write {figure}, the name of one of the step's figures, or say it without a number."
    return None


def wrong_with_setup(text: str) -> tuple[str, str] | None:
    """The same of a set-up, which is read before anything has run: two or three sentences and no placeholder."""
    if placeholders(text):
        return "Nothing has run yet when the set-up is read.", "Say it without a placeholder."
    sentences = len(SENTENCE_END.findall(text))
    if not 2 <= sentences <= 3:
        return f"The set-up has {sentences} sentences.", "Give it two or three."
    return wrong_with(text)


def wrong_with_notes(text: str) -> tuple[str, str] | None:
    """The same of a speaker's notes, which no run fills either."""
    if placeholders(text):
        return "Nothing fills a placeholder in notes.", "Say it without a placeholder."
    return wrong_with(text)


Template = Annotated[str, StringConstraints(strip_whitespace=True, min_length=20, max_length=900)]
"""A text whose figures are placeholders."""
