"""The gallery of papers: what is asked for, kept in the address and while other pages are shown, and the cards that are
found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from app.claims.judge import VERDICTS
from app.components.address import keep_in_address
from app.components.fields import begin
from app.lab import Lab
from app.papers import CLASSES, STATUS_HELP, STATUSES, Wanted, find, in_a_line, techniques, years
from app.views.paper_claim import verdict_badge, verdicts_here
from app.words.plain import plain
from scenarios import papers
from scenarios.papers.card import Card

KEPT = "papers-wanted"
"""Where the session keeps what was asked for last."""
FIELDS = tuple(f"papers-{name}" for name in ("words", "class", "technique", "status", "verdict", "years"))
ANY = "any"
COLOURS = {"runs": "green", "explained": "gray"}
NARROWING = {
    "words": "Looks for every word in names, titles, arXiv numbers, problems, mechanisms and knobs.",
    "class": "What part of serving a paper is about.",
    "technique": "The switch of this lab that a paper belongs to.",
    "years": "The year of the paper.",
    "status": " ".join(f"{words.capitalize()}: {STATUS_HELP[status]}" for status, words in STATUSES.items()),
    "verdict": "What the latest run of its claim on this machine says.",
}


def gallery(lab: Lab) -> None:
    """Draw the filters and every card that they leave."""
    verdicts = verdicts_here(lab)
    if "papers-words" not in st.session_state:  # the reader comes from elsewhere: what was drawn last is known
        _set(from_address() or st.session_state.get(KEPT, Wanted()))
    wanted = _filters()
    st.session_state[KEPT] = wanted
    keep_in_address(as_address(wanted), view="papers")
    cards = find(wanted, verdicts)
    total = len(papers.names())
    if not cards:
        st.info("No card is like that.", icon=":material/search_off:")
        st.button(
            "Clear the filters",
            key="papers-clear",
            icon=":material/filter_alt_off:",
            help="Shows every card again.",
            on_click=_set,
            args=(Wanted(),),
        )
        return
    st.caption(f"{total} cards." if len(cards) == total else f"{len(cards)} of {total} cards.")
    with st.container(key="paper-cards"):
        for name, card in cards.items():
            _tile(name, card, verdicts.get(name))


def open_button(name: str, card: Card, label: str) -> None:
    """Shows a card in place of what is shown. (A page link to another view of its own page leaves the address as it
    is.)
    """
    st.button(
        plain(label),
        key=f"open-{name}",
        icon=":material/article:",
        help=plain(card.title),
        on_click=st.query_params.from_dict,
        args=({"paper": name},),
    )


def all_papers_button() -> None:
    """Back to the gallery, narrowed as it was."""
    kept = as_address(st.session_state.get(KEPT, Wanted()))
    st.button(
        "All papers",
        key="all-papers",
        icon=":material/arrow_back:",
        help="Back to the gallery, with the filters as they were.",
        on_click=st.query_params.from_dict,
        args=({name: values for name, values in kept.items() if values},),
    )


def badges(card: Card) -> str:
    """Class, status and year, as Markdown."""
    status = f":{COLOURS[card.status]}-badge[{STATUSES[card.status]}]"
    return f":primary-badge[{plain(card.paper_class)}] {status} {card.year}"


def as_address(wanted: Wanted) -> dict[str, list[str]]:
    """What is asked for, as the address has it; what asks for nothing is an empty list."""
    first, last = wanted.years or (None, None)
    return {
        "words": [wanted.words] if wanted.words else [],
        "class": [wanted.paper_class] if wanted.paper_class else [],
        "technique": [wanted.technique] if wanted.technique else [],
        "from": [str(first)] if first is not None else [],
        "to": [str(last)] if last is not None else [],
        "status": [wanted.status] if wanted.status else [],
        "verdict": [wanted.verdict] if wanted.verdict else [],
    }


def from_address() -> Wanted | None:
    """What the address asks for; None where it asks for nothing. What no card can have is left out."""
    given = {name: st.query_params.get_all(name) for name in as_address(Wanted())}
    if not any(given.values()):
        return None
    first, last = years()
    return Wanted(
        words=" ".join(given["words"]),
        paper_class=_among(given["class"], CLASSES),
        technique=_among(given["technique"], techniques()),
        years=_years(_year(given["from"], first), _year(given["to"], last)),
        status=_among(given["status"], STATUSES),
        verdict=_among(given["verdict"], VERDICTS),
    )


def _filters() -> Wanted:
    """Draw the filters; what they say."""
    first, last = years()
    for key in FIELDS:
        begin(key)
    with st.container(horizontal=True, vertical_alignment="bottom", key="papers-filters"):
        words = st.text_input(
            "Search",
            key="papers-words",
            placeholder="name or idea",
            icon=":material/search:",
            help=NARROWING["words"],
            live=True,
        )
        paper_class = _choice("Class", dict.fromkeys(CLASSES), 150)
        technique = _choice("Technique", techniques(), 150)
        status = _choice("Status", STATUSES, 115)
        verdict = _choice("Verdict", dict.fromkeys(VERDICTS), 150)
        between: Any = st.slider("Years", first, last, key="papers-years", help=NARROWING["years"], width=110)
        st.button(
            "Verdicts",
            key="papers-verdicts",
            icon=":material/gavel:",
            help="What reproduces on this machine: every verdict with its evidence, also as a file.",
            on_click=st.query_params.from_dict,
            args=({"report": "yes"},),
        )
    return Wanted((words or "").strip(), paper_class, technique, _years(*between), status, verdict)


def _choice(title: str, options: Mapping[str, str | None], width: int) -> str | None:
    """One of the options, which have titles where their names say too little; None for any."""
    chosen = st.selectbox(
        title,
        [ANY, *options],
        key=f"papers-{title.lower()}",
        format_func=lambda name: options.get(name) or name,
        help=NARROWING[title.lower()],
        width=width,
    )
    return None if chosen == ANY else str(chosen)


def _set(wanted: Wanted) -> None:
    """Set the filters, before they are drawn."""
    st.session_state["papers-words"] = wanted.words
    st.session_state["papers-class"] = wanted.paper_class or ANY
    st.session_state["papers-technique"] = wanted.technique or ANY
    st.session_state["papers-status"] = wanted.status or ANY
    st.session_state["papers-verdict"] = wanted.verdict or ANY
    st.session_state["papers-years"] = wanted.years or years()


def _tile(name: str, card: Card, verdict: str | None) -> None:
    said = f" {verdict_badge(verdict)}" if verdict else ""
    with st.container(border=True, gap="small", key=f"paper-{name}"):
        st.markdown(f"**{plain(card.system)}**\n\n{badges(card)}{said}\n\n{plain(in_a_line(card))}")
        open_button(name, card, f"Open {card.system}")


def _among(given: Sequence[str], known: Iterable[str]) -> str | None:
    return next((word for word in known if word in given), None)


def _year(given: Sequence[str], usual: int) -> int:
    first, last = years()
    with contextlib.suppress(ValueError, IndexError):
        return min(max(int(given[0]), first), last)
    return usual


def _years(low: int, high: int) -> tuple[int, int] | None:
    """The years asked for; None where they are all there are."""
    between = (min(low, high), max(low, high))
    return None if between == years() else between
