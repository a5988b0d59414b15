"""``servescope papers``: what it lists, what a card prints, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import app
from app.home import Home
from app.papers import CLASSES, NOT_OURS, Wanted, find, in_a_line, techniques
from scenarios import papers
from tests.app.lab_process import asked_here

CARDS = papers.cards()


def said(*arguments: str, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["papers", *arguments])


def listed(*arguments: str) -> list[str]:
    answer = said(*arguments, "--json")
    assert answer.exit_code == 0, answer.output
    return [paper["name"] for paper in json.loads(answer.stdout)["papers"]]


def test_the_list_has_every_card() -> None:
    assert sorted(listed()) == papers.names()


@pytest.mark.parametrize("status", ["runs", "explained"])
def test_the_list_is_narrowed_to_a_status(status: str) -> None:
    assert set(listed("--status", status)) == {name for name, card in CARDS.items() if card.status == status}


@pytest.mark.parametrize("paper_class", CLASSES)
def test_the_list_is_narrowed_to_a_class_however_it_is_written(paper_class: str) -> None:
    wanted = {name for name, card in CARDS.items() if card.paper_class == paper_class}
    assert set(listed("--class", paper_class)) == set(listed("--class", paper_class.upper())) == wanted


@pytest.mark.parametrize("technique", techniques())
def test_the_list_is_narrowed_to_a_technique(technique: str) -> None:
    assert set(listed("--technique", technique)) == {n for n, card in CARDS.items() if technique in card.techniques}


@pytest.mark.parametrize("columns", [80, 140])
def test_the_table_breaks_no_name(columns: int) -> None:
    answer = said(columns=columns)
    assert answer.exit_code == 0
    words = answer.stdout.split()
    assert all(name in words for name in papers.names())
    assert {"kv_quantization", "explained", "2024"} <= set(words)
    assert max(map(len, answer.stdout.splitlines())) <= columns
    assert f"{len(CARDS)} of {len(CARDS)} cards" in answer.stderr


@pytest.mark.parametrize("name", ["hydragen", "bf16-or-death", "sarathi-serve"])
def test_a_card_is_printed_whole_with_its_diagram_as_it_is(name: str) -> None:
    card, answer = CARDS[name], said("show", name)
    assert answer.exit_code == 0
    assert card.diagram in answer.stdout
    text = " ".join(answer.stdout.split())
    parts = [card.title, card.problem, card.mechanism, NOT_OURS, *card.watch, card.check, *card.simplified]
    parts += [words for claim in card.claims for words in (claim.figure, claim.setup, claim.source)]
    parts += [knob.setting for knob in card.knobs if knob.setting]
    parts += [card.reason or "", f"https://arxiv.org/abs/{card.arxiv}"]
    assert [part for part in parts if " ".join(part.split()) not in text] == []


def test_a_card_as_json_has_the_keys_of_its_file(tmp_path: Path) -> None:
    done = asked_here(Home(tmp_path), "papers", "show", "hydragen", "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["class"] == "attention"
    assert card["claims"][0]["figure"] == "up to 32x"
    assert not list(tmp_path.iterdir()), "cards need no store"


@pytest.mark.parametrize(
    ("arguments", "field", "mend"),
    [
        (("show", "hydragn"), "paper", "Did you mean hydragen?"),
        (("--class", "cache"), "--class", "KV cache"),
        (("--technique", "chunked_prefil"), "--technique", "chunked_prefill"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_like_it(arguments: tuple[str, ...], field: str, mend: str) -> None:
    answer = said(*arguments, "--json")
    assert answer.exit_code == 1
    error = json.loads(answer.stdout)["error"]
    assert (error["field"], error["value"]) == (field, arguments[-1])
    assert mend in error["mend"]
    assert mend in answer.stderr


def test_every_word_of_a_search_must_be_there() -> None:
    assert "hydragen" in find(Wanted(words="SHARED prefixes"))
    assert list(find(Wanted(words="2402.05099"))) == ["hydragen"]
    assert not find(Wanted(words="hydragen zebra"))
    assert set(find(Wanted(words=" "))) == set(CARDS)


def test_filters_count_together() -> None:
    cards = find(Wanted(paper_class="attention", technique="prefix_sharing", years=(2024, 2024)))
    assert cards
    for card in cards.values():
        assert (card.paper_class, card.year) == ("attention", 2024)
        assert "prefix_sharing" in card.techniques


@pytest.mark.parametrize("name", CARDS)
def test_the_line_about_a_card_is_short_and_ends(name: str) -> None:
    line = in_a_line(CARDS[name])
    assert 20 < len(line) < 160
    assert line.endswith(".")
