"""The papers' cards: one YAML file each, beside this file, named as the card."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from engine.config import suggest
from scenarios.papers.card import Card
from scenarios.yaml_file import ScenarioError, read_as


def folder() -> Path:
    """The folder of the cards."""
    return Path(str(resources.files("scenarios"))) / "papers"


def names() -> list[str]:
    """The names of all cards."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


@cache
def card(name: str) -> Card:
    """Read and check one card.

    Raises:
        ScenarioError: there is none of this name, or something in its file is wrong (file, key, value, mend).
    """
    if name not in names():
        raise ScenarioError("paper", name, "There is no card of this name.", suggest(name, names()))
    return read_card(folder() / f"{name}.yaml")


def cards() -> dict[str, Card]:
    """Every card by its name. Raises ``ScenarioError``."""
    return {name: card(name) for name in names()}


def read_card(path: Path) -> Card:
    """Read and check a card's file. Raises ``ScenarioError``."""
    return read_as(Card, path, "system and title")
