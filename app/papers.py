"""Which of the papers' cards a reader asks for, and the words around them: the same on the page and on the command
line.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.errors import LabError
from app.settings import controls as book
from engine.config import suggest
from scenarios import papers
from scenarios.papers.card import Card, PaperClass

CLASSES: tuple[str, ...] = typing.get_args(PaperClass)
STATUSES = {"runs": "runs here", "explained": "explained"}
STATUS_HELP = {
    "runs": "Its mechanism is a switch of this lab, and its claim can be tried.",
    "explained": "Its card explains it; the card says why its claim is not tried here.",
}
WEIGHTS = {
    "random": "random weights show the effect",
    "trained": "a small trained model shows the effect",
    "large": "only a large model shows the effect",
}
UNCHECKED = "background, not re-checked"
NOT_OURS = "The figures are the paper's own, from the setups beside them. None was measured here."


@dataclass(frozen=True)
class Wanted:
    """What a reader asks for; what is empty asks for nothing."""

    words: str = ""
    paper_class: str | None = None
    technique: str | None = None
    years: tuple[int, int] | None = None
    status: str | None = None
    verdict: str | None = None

    def takes(self, name: str, card: Card, verdict: str | None = None) -> bool:
        """Whether a card is among what is asked for. ``verdict``: on this machine, or what stands in its place."""
        return (
            self.paper_class in (None, card.paper_class)
            and self.technique in (None, *card.techniques)
            and (self.years is None or self.years[0] <= card.year <= self.years[1])
            and self.status in (None, card.status)
            and self.verdict in (None, verdict)
            and (not self.words or self._finds(_text(name, card)))
        )

    def _finds(self, text: str) -> bool:
        return all(word in text for word in self.words.casefold().split())


def find(wanted: Wanted, verdicts: Mapping[str, str] | None = None) -> dict[str, Card]:
    """The cards that are asked for: first those that run here, then by name. Raises ``ScenarioError``.

    ``verdicts``: those on this machine, by card.
    """
    known = verdicts or {}
    matching = [(name, card) for name, card in papers.cards().items() if wanted.takes(name, card, known.get(name))]
    return dict(sorted(matching, key=lambda pair: (pair[1].status != "runs", pair[1].system.casefold())))


def years() -> tuple[int, int]:
    """The first and the last year of a card."""
    known = [card.year for card in papers.cards().values()]
    return min(known), max(known)


def titles() -> dict[str, str]:
    """The titles of the lab's settings, techniques among them, by dotted name."""
    return {control.path: control.title for control in book.controls()}


def techniques() -> dict[str, str]:
    """The titles of the lab's techniques."""
    return {control.path: control.title for control in book.techniques()}


def address(card: Card) -> str | None:
    """Where the paper is."""
    return f"https://arxiv.org/abs/{card.arxiv}" if card.arxiv else None


def in_a_line(card: Card) -> str:
    """The problem's first sentence."""
    return card.problem.partition(". ")[0].rstrip(".") + "."


def one_of(field: str, value: str | None, known: Iterable[str]) -> str | None:
    """The known word that was meant, whatever its case; None for None. Raises ``LabError`` with what is like it."""
    if value is None:
        return None
    words = {word.casefold(): word for word in known}
    if value.casefold() not in words:
        mend = suggest(value, list(words.values()))
        message = f"There is no {field.lstrip('-')} of this name."
        raise LabError("unknown-name", field=field, value=value, message=message, mend=mend)
    return words[value.casefold()]


def _text(name: str, card: Card) -> str:
    """What a search looks through."""
    known = techniques()
    parts = [name, card.system, card.title, str(card.year), card.arxiv or "", card.paper_class, card.problem]
    parts += [card.mechanism, *(known.get(path, path) for path in card.techniques), *card.techniques]
    return " ".join([*parts, *(knob.paper for knob in card.knobs)]).casefold()
