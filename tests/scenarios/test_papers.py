"""The papers' cards: every one is sound, what it names exists, and a bad card is answered with what would be right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from engine.config import EngineConfig
from engine.config.schema import field_place
from scenarios import ScenarioError, papers
from scenarios.papers.card import DIAGRAM_HEIGHT, DIAGRAM_WIDTH, Card, Claimed, Knob
from scenarios.papers.schema import SCHEMA, schema_text

CARDS = papers.cards()
GOOD = (papers.folder() / "sarathi-serve.yaml").read_text(encoding="utf-8")
TECHNIQUES = {
    name for name in EngineConfig.model_fields if (where := field_place(EngineConfig, name)).models and where.optional
}
EACH = pytest.mark.parametrize("name", CARDS)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of everything that can be set."""
    for name in model.model_fields:
        yield f"{prefix}{name}"
        for inner in field_place(model, name).models:
            yield from settings(inner, f"{prefix}{name}.")


SETTINGS = set(settings(EngineConfig))


def test_there_are_the_promised_cards():
    assert Counter(card.tier for card in CARDS.values()) == {1: 16, 2: 28, 3: 28}


@EACH
def test_what_a_card_names_exists(name: str):
    card = CARDS[name]
    assert set(card.techniques) <= TECHNIQUES
    assert {knob.setting for knob in card.knobs} - {None} <= SETTINGS
    assert set(card.related) <= CARDS.keys() - {name}


@EACH
def test_a_problem_is_two_sentences(name: str):
    assert len(re.findall(r"[.?!](?=\s|$)", CARDS[name].problem)) == 2


@EACH
def test_a_diagram_is_drawn_in_characters_of_one_width(name: str):
    lines = CARDS[name].diagram.splitlines()
    assert len(lines) <= DIAGRAM_HEIGHT
    assert all(len(line) <= DIAGRAM_WIDTH for line in lines)
    assert all(line.isascii() and line.isprintable() for line in lines)


@EACH
def test_a_card_that_is_explained_only_says_why(name: str):
    card = CARDS[name]
    assert (card.reason is None) == (card.status == "runs")


def test_no_two_cards_are_of_one_paper():
    numbers = [card.arxiv for card in CARDS.values() if card.arxiv]
    assert len(set(numbers)) == len(numbers)
    assert len({card.system for card in CARDS.values()}) == len({card.title for card in CARDS.values()}) == len(CARDS)


def test_the_published_schema_is_the_cards_own():
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "python -m scenarios.papers.schema writes it anew"


@pytest.mark.parametrize("model", [Card, Claimed, Knob], ids=lambda model: model.__name__)
def test_every_key_is_documented(model: type[BaseModel]):
    document = (Path(__file__).parents[2] / "docs" / "papers.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL)))
    assert {field.alias or name for name, field in model.model_fields.items()} <= words


WIDE, HIGH = "x" * (DIAGRAM_WIDTH + 1), "x\\n" * (DIAGRAM_HEIGHT + 1)
DRAWN = f"{DIAGRAM_WIDTH} wide and {DIAGRAM_HEIGHT} high"


@pytest.mark.parametrize(
    ("pattern", "new", "field", "mend"),
    [
        ("system: ", "sistem: ", "sistem", "Did you mean system?"),
        ("class: ", "clas: ", "clas", "Did you mean class or"),
        ("class: .*", "class: schedulign", "class", "scheduling, KV cache"),
        ("class: .*\n", "", "class", "scheduling, KV cache"),
        ("tier: 1", "tier: 4", "tier", "1, 2, 3"),
        ("year: 2024", 'year: "2024"', "year", "a whole number"),
        ('arxiv: "2403.02310"', "arxiv: 2403.02310", "arxiv", "text that matches"),
        (r"diagram: \|\n(  .*\n|\n)+", f'diagram: "{WIDE}"\n', "diagram", DRAWN),
        (r"diagram: \|\n(  .*\n|\n)+", f'diagram: "{HIGH}"\n', "diagram", DRAWN),
        (r"diagram: \|\n(  .*\n|\n)+", 'diagram: "a picture with\\ta tab"\n', "diagram", "printable characters"),
        ("status: runs", "status: explained", "reason", "Change one of them."),
        ("status: runs", "status: runs\nreason: Later.", "reason", "Change one of them."),
        ("    source: abstract\n", "    source: hearsay\n", "claims.0.source", "public code or page"),
        ("    setup: .*\n", "", "claims.0.setup", "text"),
        ("  - paper: token", "  - papr: token", "knobs.0.papr", "Did you mean paper?"),
        (r"related: .*", "related: [No Name]", "related.0", "matches"),
    ],
)
def test_a_bad_card_is_refused_with_file_field_and_mend(tmp_path: Path, pattern: str, new: str, field: str, mend: str):
    text, changed = re.subn(pattern, lambda _: new, GOOD, count=1)
    assert changed
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        papers.read_card(path)
    assert caught.value.field == f"mine.yaml: {field}"
    assert mend in caught.value.mend


def test_a_card_that_is_no_map_is_refused(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"mine\.yaml.*not a map"):
        papers.read_card(tmp_path / "mine.yaml")


@pytest.mark.parametrize("name", ["sarathi-serv", "../sarathi-serve", "", "card"])
def test_an_unknown_card_is_refused_with_the_nearest(name: str):
    with pytest.raises(ScenarioError) as caught:
        papers.card(name)
    assert caught.value.value == name
    assert caught.value.mend.startswith(("Did you mean", "Known here"))
