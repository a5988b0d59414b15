"""Words that every run has, with those of all techniques."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.panels import PANELS
from app.words import decisions, glossary, states
from app.words.glossary import Entry


def decision_in_words(decision: Mapping[str, Any]) -> str:
    """One decision of the scheduler as a sentence (a row of ``decisions``)."""
    for panel in PANELS:
        if (said := panel.decision_in_words(decision)) is not None:
            return said
    return decisions.decision_in_words(decision, actions(), reasons())


def actions() -> dict[str, str]:
    """What the scheduler may do, as ``words.decisions.ACTIONS`` writes it."""
    return _with(decisions.ACTIONS, "actions")


def reasons() -> dict[str, str]:
    """Why it may do so."""
    return _with(decisions.REASONS, "reasons")


def words_of_the_field() -> dict[str, Mapping[str, Entry]]:
    """The glossary by parts; techniques from elsewhere add a part of their own."""
    added = {word: Entry(means=means) for word, means in _with({}, "glossary").items()}
    return {**glossary.groups(), **({"Techniques from elsewhere": added} if added else {})}


def label_in_words(label: str) -> str:
    """What a label of a run means."""
    return _with(states.LABELS, "labels").get(label, "A label of this run.")


def _with(common: Mapping[str, str], name: str) -> dict[str, str]:
    sentences = dict(common)
    for panel in PANELS:
        sentences |= getattr(panel.words, name)
    return sentences
