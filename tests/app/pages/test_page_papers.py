"""The Papers page as Streamlit runs it: the gallery, its filters, a card, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.lab import Lab
from app.papers import CLASSES, NOT_OURS, UNCHECKED, techniques, titles, years
from app.server.serve import PAGE
from scenarios import papers
from scenarios.papers.card import Card
from tests.app.lab_process import lab_here
from tests.open_form import open_sections

LAB = str(PAGE)
CARDS = papers.cards()


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with an empty store that serves nothing."""
    with lab_here(tmp_path_factory.mktemp("papers"), serves_experiments=False) as opened:
        yield opened


def page_at(path: str = "papers", **parameters: str | list[str]) -> AppTest:
    page = AppTest.from_file(LAB, default_timeout=60)
    for name, value in parameters.items():
        page.query_params[name] = value
    if path:
        page.switch_page(f"pages/{path}.py")
    page.run()
    assert not page.exception
    return page


def shown(page: AppTest) -> set[str]:
    """The names of the cards in the gallery."""
    return {str(button.key).removeprefix("open-") for button in page.button if str(button.key).startswith("open-")}


def said(page: AppTest) -> str:
    kinds = (page.title, page.markdown, page.caption, page.info, page.warning, page.error, page.subheader)
    return "\n".join(str(element.value) for kind in kinds for element in kind).replace("\\", "")


def cards_with(**facts: Any) -> set[str]:
    return {name for name, card in CARDS.items() if all(getattr(card, key) == fact for key, fact in facts.items())}


def test_the_gallery_shows_every_card() -> None:
    page = page_at()
    assert shown(page) == set(CARDS)
    text = said(page)
    assert f"{len(CARDS)} cards." in text
    assert all(card.system in text and card.problem.partition(". ")[0] in text for card in CARDS.values())


def test_every_control_of_the_gallery_has_help() -> None:
    page = page_at()
    controls = [*page.text_input, *page.selectbox, *page.slider, *page.button]
    assert len(controls) == 7 + len(CARDS)
    assert [control.key for control in controls if not control.help] == []


@pytest.mark.parametrize("paper_class", CLASSES)
def test_the_gallery_is_narrowed_to_a_class(paper_class: str) -> None:
    page = page_at()
    page.selectbox(key="papers-class").set_value(paper_class).run()
    assert shown(page) == cards_with(paper_class=paper_class)


def test_filters_count_together_and_a_search_takes_every_word() -> None:
    page = page_at()
    page.selectbox(key="papers-technique").set_value("prefix_sharing").run()
    page.slider(key="papers-years").set_value((2024, 2024)).run()
    both = {name for name in cards_with(year=2024) if "prefix_sharing" in CARDS[name].techniques}
    assert shown(page) == both
    page.text_input(key="papers-words").set_value("Shared PREFIXES").run()
    assert {"hydragen"} <= shown(page) < both
    page.selectbox(key="papers-status").set_value("explained").run()
    assert shown(page) <= cards_with(status="explained")


def test_nothing_found_says_so_and_one_button_shows_all_again() -> None:
    page = page_at(words="zebra", **{"class": "attention"})
    assert shown(page) == set()
    assert "No card is like that." in said(page)
    page.button(key="papers-clear").click().run()
    assert shown(page) == set(CARDS)
    assert (page.text_input(key="papers-words").value, page.slider(key="papers-years").value) == ("", years())


@pytest.mark.parametrize("planted", ["<b id='planted'>x</b>", ":red[x] **x** $x$", "[x](https://evil.example)"])
def test_markup_in_a_search_stays_text(planted: str) -> None:
    page = page_at(words=planted)
    assert page.text_input(key="papers-words").value == planted
    assert planted not in said(page)
    page = page_at(paper=planted)
    raw = "\n".join(str(error.value) for error in page.error)
    assert planted in raw.replace("\\", "")
    assert planted not in raw


def test_an_address_that_no_card_can_have_narrows_nothing() -> None:
    page = page_at(technique="warp_drive", status="later", to="soon", **{"from": "1", "class": "cooking"})
    assert shown(page) == set(CARDS)


def test_the_address_narrows_the_gallery() -> None:
    page = page_at(technique="speculation", **{"from": "2025", "to": "2025"})
    assert page.selectbox(key="papers-technique").value == "speculation"
    assert shown(page) == {n for n in cards_with(year=2025) if "speculation" in CARDS[n].techniques}


def test_a_card_opens_and_the_gallery_is_as_it_was_on_the_way_back() -> None:
    page = page_at(technique="speculation")
    narrowed = shown(page)
    page.button(key="open-triforce").click().run()
    assert page.query_params["paper"] == "triforce"
    assert page.title[0].value == "TriForce"
    page.button(key="all-papers").click().run()
    assert "paper" not in page.query_params
    assert shown(page) == narrowed
    page.switch_page("pages/runs.py").run()
    page.switch_page("pages/papers.py").run()
    assert shown(page) == narrowed


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.sampled(5)  # one piece of code draws them all
def test_a_card_says_everything_it_has(name: str) -> None:
    page, card = page_at(paper=name), CARDS[name]
    text = said(page) + " ".join(cell for table in page.table for cell in table.value.to_numpy().flat).replace("\\", "")
    parts = [card.system, card.title, card.paper_class, str(card.year), card.problem, card.mechanism, NOT_OURS]
    parts += [card.check, *card.watch, *card.simplified, card.reason or "", f"https://arxiv.org/abs/{card.arxiv}"]
    parts += [words for claim in card.claims for words in (claim.says, claim.figure, claim.setup, claim.source)]
    parts += [words for knob in card.knobs for words in (knob.paper, knob.note or "")]
    parts += [f"{titles()[knob.setting]} `{knob.setting}`" for knob in card.knobs if knob.setting]
    assert [part for part in parts if " ".join(part.split()) not in text] == []
    assert [code.value for code in page.code] == [card.diagram.rstrip("\n")]
    assert shown(page) == set(card.related)
    assert bool(page.warning) == any(claim.source == UNCHECKED for claim in card.claims)


def test_text_of_a_card_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = "<b>x</b> :red[x] **x**"
    data = CARDS["hydragen"].model_dump(by_alias=True)
    data |= {"system": planted, "title": planted, "problem": planted + " It goes on. And on and on.", "check": planted}
    data["claims"] = [dict.fromkeys(("says", "figure", "setup"), planted) | {"source": "abstract"}]
    data["knobs"] = [{"paper": planted, "note": planted}]
    bad = Card.model_validate(data)
    monkeypatch.setattr(papers, "card", lambda name: bad)
    page = page_at(paper="hydragen")
    texts = [str(element.value) for kind in (page.title, page.markdown) for element in kind]
    texts += [str(cell) for table in page.table for cell in table.value.to_numpy().flat]
    assert sum(planted in text.replace("\\", "") for text in texts) >= 6
    assert [text for text in texts if planted in text] == []


def test_an_unknown_card_names_those_that_are_like_it() -> None:
    page = page_at(paper="hydragn")
    assert "There is no card 'hydragn'." in said(page)
    assert "hydragen" in shown(page)
    page.button(key="open-hydragen").click().run()
    assert page.title[0].value == "Hydragen"


@pytest.mark.parametrize("technique", techniques())
def test_a_technique_leads_to_its_papers_and_back_switched_on(lab: Lab, technique: str) -> None:
    page = open_sections(AppTest.from_file(LAB, default_timeout=60)).run()
    links = [link.proto for link in page.get("page_link")]
    assert f"technique={technique}" in [link.query_string for link in links if link.label == "Papers"]
    page = page_at("live", technique=technique)
    assert page.toggle(key=f"set:starter:{technique}").value is True
    page.toggle(key=f"set:starter:{technique}").set_value(False).run()
    assert page.toggle(key=f"set:starter:{technique}").value is False, "the address asks once"
